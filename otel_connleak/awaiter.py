"""Who awaits what a thread or task returns: its result goes there, and not to a caller on the stack (L1).

After ``asyncio.to_thread(connect)``, ``asyncio.create_task(connect())`` or ``asyncio.gather(connect(), …)``
the function has no caller but the standard library. Its future knows, in its callbacks, the task that it will
wake.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import types
from collections import deque
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, Final

from otel_connleak.frames import local_values, running_frames, upwards

_THREAD_POOL: Final = "concurrent.futures.thread"
_WORKERS: Final = frozenset({_THREAD_POOL, "asgiref.current_thread_executor"})
"""Modules that run what was submitted. The second is for the thread that waits in ``async_to_sync``."""
_MOST: Final = 200
"""Objects looked at; from a future to the task that awaits it there are about ten."""
_MOST_TASKS: Final = 3
"""Tasks that pass a result on."""


def awaiting_frames(frame: FrameType) -> Iterator[FrameType]:
    """The frames of the tasks that await what the activation of ``frame`` returns, innermost first.

    Args:
        frame: of an activation that ends in the calling thread.
    """
    result = _future_in_thread_pool(frame)
    if result is not None:
        yield from _submitting_frames(result)
    else:
        result = _current_task()
    for _ in range(_MOST_TASKS):
        # The task may only pass it on, as that of ``gather(to_thread(…), …)`` does.
        result = _awaiting_task(result) if result is not None else None
        yield from _innermost_first(result.get_coro() if result is not None else None)


def _future_in_thread_pool(frame: FrameType | None) -> Any:
    """The future of the function that a worker of a thread pool runs."""
    while frame is not None:
        if frame.f_code.co_name == "run" and frame.f_globals.get("__name__") in _WORKERS:
            return next((getattr(item, "future", None) for item in local_values(frame, {"self"})), None)
        frame = frame.f_back
    return None


def _submitting_frames(future: Any) -> Iterator[FrameType]:
    """The frames that are about to await it: where a thread is started for it, its function may be faster."""
    for frame in running_frames():
        if frame.f_globals.get("__name__") != _THREAD_POOL or frame.f_code.co_name != "submit":
            continue
        if any(value is future for value in local_values(frame, {"f"})):
            callers = list(upwards(frame.f_back))
            if any(caller.f_code.co_name == "run_in_executor" for caller in callers):
                yield from callers


def _current_task() -> Any:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no event loop runs in this thread
        return None


def _awaiting_task(result: Any) -> asyncio.Task[Any] | None:
    """The nearest task that is woken when a future, or task, is done; also through futures that follow it."""
    seen = {id(result)}
    waiting = deque([result])
    while waiting and len(seen) < _MOST:
        item = waiting.popleft()
        for each in _behind(item):
            if issubclass(type(each), asyncio.Task) and each is not result:
                task: asyncio.Task[Any] = each
                return task
            if id(each) not in seen:
                seen.add(id(each))
                waiting.append(each)
    return None


def _behind(item: Any) -> Iterable[Any]:
    """What is called when an item is done, or what a call of it will change. Runs nothing of the host."""
    kind = type(item)
    if issubclass(kind, asyncio.Future):
        return [callback for callback, _ in item._callbacks or ()]
    if issubclass(kind, concurrent.futures.Future):
        return list(item._done_callbacks)
    if kind is types.FunctionType:
        return [value for value in map(_contents, item.__closure__ or ()) if value is not None]
    if kind in (types.MethodType, types.BuiltinMethodType):
        return (item.__self__,)
    return ()


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return None


def _innermost_first(coroutine: Any) -> list[FrameType]:
    """The frames of a coroutine that waits, and of those that it waits for."""
    found: list[FrameType] = []
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None)
        if frame is not None:
            found.insert(0, frame)
        coroutine = getattr(coroutine, "cr_await", None)
    return found
