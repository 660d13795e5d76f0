"""Reading of files and variables: strict YAML, `.env`, error texts."""
