"""Answers as values: closed answers, numbers, strict JSON."""
