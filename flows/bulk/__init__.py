"""Files of tasks as one flow run."""
