"""Ways to keep a connection alive that no code can use any more."""

from typing import Any


class Cycle:
    """Keeps something, and itself: only the garbage collector can free it."""

    def __init__(self, kept: Any) -> None:
        self.kept = kept
        self.itself = self
