"""Waiting for a condition with a deadline, never for a time."""

import asyncio
import time
from collections.abc import Callable


def wait_until[T](condition: Callable[[], T], what: str, timeout: float = 15.0) -> T:
    """Ask ``condition`` until its answer is true, and return that answer.

    Args:
        condition: asked every few milliseconds, at least once.
        what: what is waited for, for the message.
        timeout: seconds.

    Raises:
        AssertionError: the condition was still false at the deadline.
    """
    deadline = time.monotonic() + timeout
    pause = 0.001
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"after {timeout:g} s still waiting for {what}; last answer: {answer!r}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)


async def until(condition: Callable[[], object], timeout: float = 15.0) -> None:  # noqa: ASYNC109
    """The same within an event loop, which goes on meanwhile; raises `TimeoutError`."""
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110 -- what is tested sets no event
            await asyncio.sleep(0.001)
