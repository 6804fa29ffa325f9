"""Whether the activation still runs whose block a transaction is (L1)."""

from __future__ import annotations

from collections.abc import Iterator
from types import FrameType
from typing import Final

from otel_connleak.frames import bridged_from, bridged_to, upwards
from otel_connleak.hold import Origin

_BRIDGES: Final = frozenset({"greenlet_spawn"})
"""Coroutine functions of SQLAlchemy that wait for synchronous code in a greenlet, which they keep."""


def is_running(origin: Origin, frame: FrameType) -> bool:
    """Whether the owner of an origin is among the callers of a frame. For the thread that runs the frame.

    Where synchronous code runs in a greenlet for the coroutine that waits for it, the callers are in both.

    Args:
        origin: known since some time ago. It does not refer to the activation, which may be over: another
            one may have its identity by now.
        frame: runs now.
    """
    _, owner, code, _ = origin
    return any(id(each) == owner and each.f_code is code for each in _callers(frame))


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    for start in (frame, bridged_to()):
        for each in upwards(start):
            yield each
            if each.f_code.co_name in _BRIDGES:
                yield from bridged_from(each)
