"""Plans: the local classifier and the plan model."""
