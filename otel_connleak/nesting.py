"""Nested layers make one hold, that of the outermost (L1).

While a layer connects or checks out on behalf of the application, what the layers below it do is not a hold
of its own: a pool's worker that calls ``driver.connect`` does not acquire for the application.
"""

from __future__ import annotations

from contextvars import ContextVar
from types import FrameType
from typing import Final

from otel_connleak.libraries import CONNECTION_KEEPERS

inside: Final[ContextVar[bool]] = ContextVar("otel_connleak_inside", default=False)
"""True while an outer layer acquires. A context variable: it is right per thread and per asyncio task."""

_PASS_ON: Final = frozenset(
    "psycopg psycopg2 asyncpg aiopg sqlite3 aiosqlite pymysql aiomysql mysql oracledb "
    "opentelemetry otel_connleak wrapt functools contextlib".split()
)


def connects_for_a_pool(frame: FrameType | None) -> bool:
    """Whether a direct connect was called by a library that keeps connections for the application.

    Such a library has an adapter of its own, or none yet: in both cases the application did not acquire here.
    Drivers and instrumentations in between only pass the call on.

    Args:
        frame: the frame that called ``connect``.
    """
    while frame is not None:
        top = str(frame.f_globals.get("__name__") or "").partition(".")[0]
        if top not in _PASS_ON:
            return top in CONNECTION_KEEPERS
        frame = frame.f_back
    return False
