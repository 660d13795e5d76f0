"""Recorded answers of real models: served in place of models, and replayed through the whole flow."""
