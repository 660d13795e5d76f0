"""Multi-model LLM workflows on Prefect 3, configured by one YAML file."""
