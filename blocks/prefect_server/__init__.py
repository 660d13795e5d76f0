"""The embedded Prefect server: process, settings, secrets, checks."""
