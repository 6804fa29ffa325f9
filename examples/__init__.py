"""A shop that leaks connections, the demo that runs it, and an OTLP receiver for the demo and the tests."""
