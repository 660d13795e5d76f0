"""Replays of recorded answers."""
