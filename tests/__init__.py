"""Tests of otel_connleak: real PostgreSQL, real pools, real launcher."""
