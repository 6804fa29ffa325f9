"""Where a function that exits has left its connection: in its result, on an argument, in the context (L1)."""

from __future__ import annotations

import inspect
from contextvars import copy_context
from types import FrameType
from typing import Any

from otel_connleak.frames import local_values
from otel_connleak.hold import Hold
from otel_connleak.reach import carries


def has(value: Any, hold: Hold) -> bool:
    """Whether a value is the connection of a hold, or keeps it within a few steps."""
    # A connection that is gone has no identity any more: a new one may have got it.
    return hold.tracked() is not None and carries(value, hold.tracked.key, hold.skipped)


def kept_in_context(hold: Hold) -> bool:
    """Whether the connection is kept in a context variable: whoever goes on in this context can release it.

    It is asked here, in the application's thread: the context of another thread cannot be seen.
    """
    return has(list(copy_context().values()), hold)


def kept_on_argument(frame: FrameType, hold: Hold) -> bool:
    """Whether the connection is kept on an argument of the function: on ``self``, in a list it was given."""
    code = frame.f_code
    count = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & inspect.CO_VARARGS)
    count += bool(code.co_flags & inspect.CO_VARKEYWORDS)
    arguments = set(code.co_varnames[:count])
    if not arguments:
        return False
    return any(has(value, hold) for value in local_values(frame, arguments))
