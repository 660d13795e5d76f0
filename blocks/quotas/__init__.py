"""Free quotas and availability of models, shared by all processes."""
