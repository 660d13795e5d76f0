"""Scenarios: which answer, error or fault a call gets."""
