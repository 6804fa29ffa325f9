"""A bounded search through the heap, for objects by their identity (L0)."""

from __future__ import annotations

import gc
import threading
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Final

_BATCH: Final = 50
_LARGE: Final = 200
"""Entries of a container that is read in batches, not at once."""
_PART: Final = 1_000
"""What was seen is kept in sets of about this size: to enlarge a large one would take too long."""
_CONTAINERS: Final = (dict, list, set, tuple, frozenset, deque)
_NOT_FOLLOWED: Final = (
    type,
    types.ModuleType,
    types.TracebackType,
    types.FrameType,
    types.CodeType,
    str,
    bytes,
    int,
    float,
)


class Search:
    """A bounded search, breadth first, for objects by their identity.

    Nothing in it runs code of the objects: no ``isinstance``, which asks a lazy proxy for its class and may
    so make it load, and no method of a subclass.

    Args:
        targets: the identities; those that are found are removed.
        most: references to look at in one run.
        pause: called between small steps.

    Attributes:
        thread_locals: the `threading.local` objects that were met. They are not followed: what is in them is
            one thread's own, and not the state of whoever can reach them.
    """

    def __init__(self, targets: set[int], most: int, pause: Callable[[], None] = lambda: None) -> None:
        self.targets = targets
        self._most = most
        self._pause = pause
        self._seen: list[set[int]] = [set() for _ in range(1 + most // _PART)]
        self.thread_locals: list[Any] = []
        self._kinds: dict[int, tuple[Any, type]] = {}

    def run(self, roots: Iterable[Any]) -> set[int]:
        """Search from ``roots``, which are read as the search goes on; returns which targets were found."""
        found: set[int] = set()
        left = self._most
        level: deque[Iterator[Any]] = deque([iter(roots)])
        following: deque[Iterator[Any]] = deque()
        while level and self.targets:
            if left <= 0:
                self.clear()  # not all of it was followed: the next run begins anew
                break
            self._pause()
            portion = level.popleft()
            batch = list(islice(portion, _BATCH))
            if len(batch) == _BATCH:
                level.append(portion)
            fresh = self._fresh(batch)
            left -= len(batch)
            reached = self.targets.intersection(map(id, fresh))
            found |= reached
            self.targets -= reached
            following += self._contents(fresh)
            if not level:
                level, following = following, level
        for portions in (level, following):
            while portions:  # little by little, too
                self._pause()
                portions.popleft()
        return found

    def clear(self) -> None:
        """Forget what was seen; little by little."""
        for part in self._seen:
            self._pause()
            part.clear()

    def _fresh(self, items: list[Any]) -> list[Any]:
        seen = self._seen
        parts = len(seen)
        fresh = []
        for item in items:
            identity = id(item)
            part = seen[(identity >> 8) % parts]
            if identity not in part and gc.is_tracked(item):
                part.add(identity)
                fresh.append(item)
        return fresh

    def _contents(self, items: list[Any]) -> Iterator[Iterator[Any]]:
        """What the items refer to; each large container for itself: it is read little by little."""
        followed: list[Any] = []
        kinds = self._kinds
        for item in items:
            kind = type(item)
            # By its identity: a metaclass may have a hash of its own. The type is kept, and so the id.
            container, _ = kinds.get(id(kind)) or kinds.setdefault(id(kind), (_container(kind), kind))
            if container is None:
                followed.append(item)
            elif container is types.FunctionType:
                # Not its globals: they reach everything.
                followed += (item.__closure__, item.__defaults__, item.__kwdefaults__)
            elif container is threading.local:
                self.thread_locals.append(item)
            elif container is not _NOT_FOLLOWED:
                if container.__len__(item) > _LARGE:
                    yield _little_by_little(container, item)
                else:
                    followed.append(item)
        if followed:
            yield iter(gc.get_referents(*followed))


def _container(kind: type) -> Any:
    """As what the objects of a type are read: container, function, not at all, or else None."""
    if issubclass(kind, _NOT_FOLLOWED):
        return _NOT_FOLLOWED
    bases = (*_CONTAINERS, types.FunctionType, threading.local)
    return next((base for base in bases if issubclass(kind, base)), None)


def _little_by_little(container: Any, item: Any) -> Iterator[Any]:
    try:
        if container is dict:
            yield from dict.values(item)
            yield from dict.keys(item)
        else:
            yield from container.__iter__(item)
    except RuntimeError:  # it was changed meanwhile: then all at once
        yield from gc.get_referents(item)
