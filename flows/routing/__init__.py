"""Which models may serve a task, in which order, and when an attempt is repeated."""
