"""Chat completions of Groq, OpenRouter and OpenAI-compatible servers: requests and responses of the sandbox."""
