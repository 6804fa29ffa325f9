"""Ctrl-C, `kill` and a closed terminal stop the demo through its `finally` blocks, never in the middle."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import FrameType
from typing import Final

_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def stop_on_signals() -> None:
    """From now on a stop signal ends the program with SystemExit, whose code is 128 plus its number."""
    for number in _STOP_SIGNALS:
        signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    # What is stopped takes seconds at most: a second, impatient Ctrl-C must not leave half of it running.
    for each in _STOP_SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    print(f"\nstopping ({signal.Signals(number).name})", file=sys.stderr, flush=True)
    sys.exit(128 + number)


@contextmanager
def signals_held() -> Iterator[None]:
    """Puts stop signals off until the block is done: for what must not be interrupted half-way."""
    received: list[int] = []
    previous = {
        number: signal.signal(number, lambda number, frame: received.append(number))
        for number in _STOP_SIGNALS
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        # Also when the block has failed: a Ctrl-C reaches the programs it runs too, and is why they failed.
        if received:
            signal.raise_signal(received[0])


def enter[T](stack: ExitStack, resource: AbstractContextManager[T]) -> T:
    """Starts a resource that `stack` will stop; a stop signal waits until `stack` knows of it."""
    with signals_held():
        return stack.enter_context(resource)
