"""The facts that speak for a leak, one file for each (L2)."""

from collections.abc import Callable

from otel_connleak.hold import Evidence, Hold

type Note = Callable[[Hold, Evidence, float], None]
"""Takes an observed fact: the hold, the kind of evidence, and when it became true (monotonic seconds)."""
