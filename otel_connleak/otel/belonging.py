"""What belongs to a hold: its trace, and outside of any trace what comes before it is over (L3)."""

from __future__ import annotations

from otel_connleak.hold import Evidence, Hold


def is_part_of(hold: Hold, current: int) -> bool:
    """Whether what happens now on a connection belongs to what it was acquired for.

    A connection may outlive its request: then another trace is current. Outside of any trace nothing is part
    of a hold, once that is over for which it was acquired, or it is reported, or has lain idle for so long
    that it would be: a leaked hold, or one for the life of the process, would swallow all later spans.

    Args:
        hold: of the connection, or of its transaction.
        current: id of the trace that is current, 0 if none is.
    """
    if current:
        return current == hold.trace
    if hold.leak is not None or hold.by_design or hold.scope_is_over or Evidence.OVERDUE in (hold.seen or ()):
        return False
    return hold.within is None or is_part_of(hold.within, 0) or hold.within.trace != hold.trace
