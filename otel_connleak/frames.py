"""Frames of activations that live, running or suspended, and what is in them, without side effect (L0)."""

from __future__ import annotations

import ctypes
import gc
import inspect
import sys
from collections.abc import Callable, Container, Iterable, Iterator
from itertools import islice
from types import CodeType, FrameType
from typing import Any, Final

from otel_connleak.libraries import GREENLET_BRIDGES
from otel_connleak.native import threads_are_greenlets

_BATCH: Final = 1_000
_OURS: Final = __name__.partition(".")[0] + "."

type Activation = tuple[int, CodeType]
"""One activation of a function: the identity of its frame object, and its code. Identities are reused."""


def _frame_variable() -> Callable[[FrameType, str], Any]:
    """CPython's ``PyFrame_GetVar`` (3.12 and newer), which reads one variable of any frame.

    Reading ``frame.f_locals`` of somebody else's frame would on 3.12 store a copy of all locals in the frame,
    and so keep a connection alive that the function has let go (PEP 667 ended this in 3.13).
    """
    get = ctypes.pythonapi.PyFrame_GetVar
    get.restype = ctypes.py_object
    get.argtypes = [ctypes.py_object, ctypes.py_object]
    return get


try:
    _get_variable: Callable[[FrameType, str], Any] | None = _frame_variable()
except (AttributeError, OSError):  # not CPython, or built without a dynamic symbol table
    _get_variable = None


def is_function(code: CodeType | None) -> bool:
    """Whether it is the code of a function, and not the body of a module or class."""
    return code is not None and bool(code.co_flags & inspect.CO_OPTIMIZED)


def local_values(frame: FrameType, only: Container[str] | None = None) -> list[Any]:
    """The values of a frame's local variables, also of one that runs in another thread; without side effect.

    Args:
        frame: any frame.
        only: names of the variables that are wanted, by default all.
    """
    code: CodeType = frame.f_code
    if not is_function(code) or _get_variable is None:
        return list(frame.f_locals.values()) if frame.f_locals is not frame.f_globals else []
    values = []
    for name in (*code.co_varnames, *code.co_cellvars, *code.co_freevars):
        if only is not None and name not in only:
            continue
        try:
            values.append(_get_variable(frame, name))
        except NameError:  # not bound at the moment
            continue
    return values


def upwards(frame: FrameType | None) -> Iterator[FrameType]:
    """A frame and its callers, innermost first, without our own."""
    while frame is not None:
        if not str(frame.f_globals.get("__name__")).startswith(_OURS):
            yield frame
        frame = frame.f_back


def running_frames() -> Iterator[FrameType]:
    """The frames of all threads, innermost first in each, without our own."""
    tops = sys._current_frames()
    while tops:
        yield from upwards(tops.popitem()[1])


def greenlets_as_threads(pause: Callable[[], None]) -> list[Any]:
    """All greenlets, where they stand for threads; ``pause`` is called between small steps.

    What would be a thread elsewhere waits in a greenlet there, and only the event loop's C code knows of it.
    The only list of them all is that of the garbage collector; to copy it takes 12 ms for a million objects.
    """
    found: list[Any] = []
    if threads_are_greenlets():
        objects = iter(gc.get_objects())
        while batch := list(islice(objects, _BATCH)):
            found += _greenlets_among(batch)
            pause()
    return found


def bridged_frames(coroutines: Iterable[Any]) -> Iterator[FrameType]:
    """The frames of the greenlets that coroutines keep, which bridge them to synchronous code.

    SQLAlchemy's asyncio does so. They are suspended, and yet nothing but their own thread sees their stacks.
    """
    if "greenlet" not in sys.modules:
        return
    for coroutine in coroutines:
        waiting = coroutine
        while waiting is not None:
            frame = getattr(waiting, "cr_frame", None) or getattr(waiting, "gi_frame", None)
            if frame is not None:
                yield from bridged_from(frame)
            waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "gi_yieldfrom", None)


def bridged_from(frame: FrameType) -> Iterator[FrameType]:
    """The frames of the suspended greenlets that are in the local variables of a frame."""
    for greenlet in _greenlets_among(local_values(frame)):
        yield from greenlet_frames(greenlet)


def bridged_to() -> FrameType | None:
    """Where the coroutine waits for which the current greenlet runs synchronous code, if it does so.

    SQLAlchemy's asyncio does: the application's frames are not above its own, but in the parent greenlet.
    """
    module = sys.modules.get("greenlet")
    current = module.getcurrent() if module is not None else None
    if type(current).__module__.partition(".")[0] not in GREENLET_BRIDGES:
        return None
    frame: FrameType | None = getattr(getattr(current, "parent", None), "gr_frame", None)
    return frame


def stack_of(frame: FrameType) -> tuple[Any, ...]:
    """Code objects and offsets of up to five frames from ``frame`` upwards, flat.

    The cheapest thing that can be shown later. It is written out because a loop costs twice as much, on every
    acquire.
    """
    one = frame.f_back
    if one is None:
        return frame.f_code, frame.f_lasti
    two = one.f_back
    if two is None:
        return frame.f_code, frame.f_lasti, one.f_code, one.f_lasti
    three = two.f_back
    if three is None:
        return frame.f_code, frame.f_lasti, one.f_code, one.f_lasti, two.f_code, two.f_lasti
    below = (
        frame.f_code, frame.f_lasti, one.f_code, one.f_lasti,
        two.f_code, two.f_lasti, three.f_code, three.f_lasti,
    )  # fmt: skip
    four = three.f_back
    return below if four is None else (*below, four.f_code, four.f_lasti)


def line_at(code: CodeType, offset: int) -> int:
    """The number of the line to which an instruction belongs."""
    for start, end, line in code.co_lines():
        if start <= offset < end and line is not None:
            return line
    return code.co_firstlineno


def greenlet_class() -> type:
    """The class of greenlets; one that has no instances where there are none in this process."""
    module = sys.modules.get("greenlet")
    found = getattr(module, "greenlet", None)
    return found if isinstance(found, type) else _NoGreenlet


def greenlet_frames(greenlet: Any) -> Iterator[FrameType]:
    """The frames of a greenlet that is suspended; none of one that runs, or is over."""
    return upwards(greenlet.gr_frame)


class _NoGreenlet:
    """Stands for the class of greenlets where there are none."""


def _greenlets_among(values: list[Any]) -> Iterator[Any]:
    kind = greenlet_class()
    # By their type: ``isinstance`` would ask a lazy proxy for its class, and so run the application's code.
    return (value for value in values if issubclass(type(value), kind))
