"""What the demo says while it works, and how it waits without falling silent."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

_POLL: Final = 0.05
_SIGN_OF_LIFE: Final = 2.0


class DemoFailed(Exception):
    """The demo could not show what it should; the message says what was missing."""


class Progress:
    """Prints one line a step, each with the seconds since the start."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def say(self, text: str) -> None:
        """Prints one step."""
        print(f"[{time.monotonic() - self._start:5.1f} s] {text}", flush=True)

    def wait_until(self, condition: Callable[[], object], timeout: float, what: str) -> bool:
        """Waits until `condition` is true, at most `timeout` seconds, with a sign of life every two seconds.

        Returns whether it became true.
        """
        deadline = time.monotonic() + timeout
        next_sign = time.monotonic() + _SIGN_OF_LIFE
        while not condition():
            if time.monotonic() > deadline:
                return False
            if time.monotonic() > next_sign:
                self.say(f"  still waiting for {what}")
                next_sign += _SIGN_OF_LIFE
            time.sleep(_POLL)
        return True
