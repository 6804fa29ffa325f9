"""`expect_long_hold`: the application says that what it acquires here is held for long by design (L1)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

_expected: Final[ContextVar[bool]] = ContextVar("otel_connleak_expect_long_hold", default=False)

expected = _expected.get
"""Whether the calling thread or task is inside of an `expect_long_hold` block."""


@contextmanager
def expect_long_hold() -> Iterator[None]:
    """What is acquired inside this block, or in a function decorated with it, never becomes overdue.

    For a connection that is held long by design: a ``LISTEN`` connection, a leader election. All other
    evidence counts as ever. It works per thread and asyncio task, and costs nothing when nothing is
    instrumented.
    """
    token = _expected.set(True)
    try:
        yield
    finally:
        _expected.reset(token)
