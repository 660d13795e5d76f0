"""Gemini generateContent: requests and responses of the sandbox."""
