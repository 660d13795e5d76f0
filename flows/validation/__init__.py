"""Validation: which free answers are good enough, and how that is known."""
