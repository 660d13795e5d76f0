"""Provider keys as Prefect blocks, and where keys are found."""
