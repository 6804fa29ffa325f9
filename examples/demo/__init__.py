"""`make demo`: the shop under the launcher, requests until its pool is dry, and what otel-connleak says."""
