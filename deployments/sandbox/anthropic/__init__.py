"""Anthropic Messages: requests and responses of the sandbox."""
