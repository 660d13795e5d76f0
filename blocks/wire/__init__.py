"""Wire formats of the providers as pure functions: build a request, parse a reply, classify an error."""
