"""What the running instrumentation offers to a span processor that a user made by hand (L1).

The instrumentor is the only place of wiring; it puts one of these here when it starts, and takes it away when
it stops. Without it a processor does nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Runtime:
    """The running instrumentation.

    Attributes:
        root_started: a local root span was started: trace id, span id, identity of the asyncio task or 0.
        root_ended: a local root span was ended: span id.
        flush: waits until what was observed so far has been reported; takes seconds, returns whether it has.
        shutdown: reports what is still held by nobody who could release it.
        call_ended: a call to another service was ended: trace id, seconds, what gives its name; None where
            nobody wants to know.
    """

    root_started: Callable[[int, int, int], None]
    root_ended: Callable[[int], None]
    flush: Callable[[float], bool]
    shutdown: Callable[[], None]
    call_ended: Callable[[int, float, Callable[[], str]], None] | None = None


current: Runtime | None = None
"""The running instrumentation, or None."""
