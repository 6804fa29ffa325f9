"""Locks and threads of the operating system, also where gevent or eventlet has replaced Python's (L0).

Both replace `threading` by something that waits in an event loop: a "thread" is then a greenlet, and whatever
waits in it for a lock or a queue of the operating system stops all of them. The launcher imports us before
the application patches anything, so what `threading` offers when the watchdog starts is another thing than
what we were imported with.
"""

from __future__ import annotations

import _thread
import sys
import threading
from collections.abc import Callable
from typing import Any, Final


def _original(name: str) -> Any:
    """A member of ``_thread`` as it was before anything was patched."""
    if (gevent := sys.modules.get("gevent.monkey")) is not None:
        return gevent.get_original("_thread", name)
    if (eventlet := sys.modules.get("eventlet.patcher")) is not None:
        return getattr(eventlet.original("_thread"), name)
    return getattr(_thread, name)


Lock: Final[Callable[[], Any]] = _original("allocate_lock")
RLock: Final[Callable[[], Any]] = _original("RLock")
get_ident: Final[Callable[[], int]] = _original("get_ident")
_start_new_thread: Final[Callable[..., int]] = _original("start_new_thread")


def threads_are_greenlets() -> bool:
    """Whether `threading.Thread` no longer starts a thread of the operating system."""
    if (gevent := sys.modules.get("gevent.monkey")) is not None:
        return bool(gevent.is_module_patched("threading"))
    if (eventlet := sys.modules.get("eventlet.patcher")) is not None:
        return bool(eventlet.is_monkey_patched("thread"))
    return False


class Latch:
    """Opened once, waited for by any thread; blocks the whole thread that waits."""

    def __init__(self) -> None:
        self._closed = Lock()
        self._closed.acquire()

    def open(self) -> None:
        """Let everybody pass. Idempotent."""
        try:
            self._closed.release()
        except RuntimeError:  # it is open
            pass

    def wait(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds; returns whether it was opened."""
        opened: bool = self._closed.acquire(timeout=timeout)
        if opened:
            self.open()  # for whoever else waits
        return opened


class Thread:
    """A daemon thread of the operating system.

    Args:
        run: what it does.
        name: for people who look at the threads of the process.
        unlisted: `threading` does not know of it. For one that starts before the application, and lives on:
            gevent forgets the threads that were there when it replaces `threading`, and their end fails then.
    """

    def __init__(self, run: Callable[[], None], name: str, *, unlisted: bool = False) -> None:
        self._run = run
        self._name = name
        self._unlisted = unlisted
        self._ended = Latch()
        self._ident = 0
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start it. Raises `RuntimeError` if the interpreter is shutting down."""
        if self._unlisted or threads_are_greenlets():
            _start_new_thread(self._work, ())
        else:
            thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            thread.start()
            self._thread = thread

    def join(self, timeout: float) -> None:
        """Wait at most ``timeout`` seconds until it has ended; returns at once in the thread itself."""
        if get_ident() == self._ident:
            return
        if self._thread is not None:
            self._thread.join(timeout)
        else:
            self._ended.wait(timeout)

    def _work(self) -> None:
        self._ident = get_ident()
        try:
            self._run()
        finally:
            self._ended.open()
