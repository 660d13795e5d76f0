"""What the flows need of Prefect beyond `@flow` and `@task`, through its public API."""
