"""The HTTP client of the providers: addresses, transport, telemetry."""
