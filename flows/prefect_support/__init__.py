"""What the flows need of Prefect besides its decorators."""
