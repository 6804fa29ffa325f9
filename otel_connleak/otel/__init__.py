"""What leaves the process through OpenTelemetry: spans, the span processor, metrics, log events (L3)."""
