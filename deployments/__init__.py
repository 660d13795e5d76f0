"""How it runs: deployments, schedules, and the sandbox provider for trying and testing."""
