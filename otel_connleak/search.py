"""A bounded search through the heap, for objects by their identity (L0)."""

from __future__ import annotations

import gc
import operator
import threading
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Final

from otel_connleak.frames import greenlet_class, greenlet_frames, local_values
from otel_connleak.libraries import SCOPES

_BATCH: Final = 50
_LARGE: Final = 200
"""Entries of a container that is read in batches, not at once."""
_PART: Final = 1_000
"""What was seen is kept in sets of about this size: to enlarge a large one would take too long."""
_CONTAINERS: Final = (dict, list, set, tuple, frozenset, deque)
_SCOPES: Final = object()
"""As what an object is read that keeps something for each task or request."""
_GREENLET: Final = object()
"""As what a greenlet is read: its collector's view of it lacks the frames in which it is suspended."""
_RUNNING: Final[dict[Any, Callable[[Any], bool]]] = {
    types.CoroutineType: operator.attrgetter("cr_running"),
    types.GeneratorType: operator.attrgetter("gi_running"),
    types.AsyncGeneratorType: operator.attrgetter("ag_running"),
}
"""What has frames of its own, and how it says that these run now."""
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
        skip: identities of objects that are not followed.
        running: whether coroutines and generators are followed that run now.
        not_in: names of classes, and of modules of classes, whose objects are not followed.

    Attributes:
        thread_locals: the `threading.local` objects that were met. They are not followed: what is in them is
            one thread's own, and not the state of whoever can reach them.
        scopes: the objects that were met which keep something for each task or request; not followed either.
    """

    def __init__(
        self,
        targets: set[int],
        most: int,
        pause: Callable[[], None] = lambda: None,
        skip: Iterable[int] = (),
        *,
        running: bool = True,
        not_in: frozenset[str] = frozenset(),
    ) -> None:
        self.targets = targets
        self._most = most
        self._pause = pause
        self._left = most
        self._seen: list[set[int]] = [set() for _ in range(1 + most // _PART)]
        self._skip = tuple(skip)
        self._running = running
        self._not_in = not_in
        self._mark_skipped()
        self.thread_locals: list[Any] = []
        self.scopes: list[Any] = []
        self._kinds: dict[int, tuple[Any, type]] = {}

    def run[R](self, roots: Iterable[tuple[R, Iterable[Any]]]) -> dict[int, R]:
        """Search from several roots at once, the values of all of them first, then what these refer to.

        Args:
            roots: what each is called, and its values. They are read one after the other as the search goes
                on, so that none is kept alive for longer than it takes to look at it.

        Returns:
            The targets that were found, each with the root that is nearest to it.
        """
        found: dict[int, R] = {}
        waiting: deque[tuple[R, Iterator[Any]]] = deque()
        self._left = self._most
        for root, values in roots:
            portion = iter(values)
            while self._goes_on and (batch := list(islice(portion, _BATCH))):
                self._look_at(root, batch, found, waiting)
            if not self._goes_on:
                break
        while waiting and self._goes_on:
            root, portion = waiting.popleft()
            batch = list(islice(portion, _BATCH))
            if len(batch) == _BATCH:
                waiting.append((root, portion))
            self._look_at(root, batch, found, waiting)
        if self._left <= 0:
            self.clear()  # not all of it was followed: the next run begins anew
        while waiting:  # little by little, too
            self._pause()
            waiting.popleft()
        return found

    @property
    def _goes_on(self) -> bool:
        return bool(self.targets) and self._left > 0

    def _look_at[R](
        self, root: R, batch: list[Any], found: dict[int, R], waiting: deque[tuple[R, Iterator[Any]]]
    ) -> None:
        """Look for the targets in a batch, and let what it refers to wait."""
        self._pause()
        self._left -= len(batch)
        fresh = self._fresh(batch)
        reached = self.targets.intersection(map(id, fresh))
        found |= dict.fromkeys(reached, root)
        self.targets -= reached
        waiting += [(root, portion) for portion in self._contents(fresh)]

    def clear(self) -> None:
        """Forget what was seen; little by little."""
        for part in self._seen:
            self._pause()
            part.clear()
        self._mark_skipped()

    def _mark_skipped(self) -> None:
        for identity in self._skip:
            self._seen[(identity >> 8) % len(self._seen)].add(identity)

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
            known = kinds.get(id(kind)) or kinds.setdefault(id(kind), (_container(kind, self._not_in), kind))
            container = known[0]
            if container is None:
                followed.append(item)
            elif container not in _CONTAINERS:
                followed += self._special(container, item)
            elif container.__len__(item) > _LARGE:
                yield _little_by_little(container, item)
            else:
                followed.append(item)
        if followed:
            yield iter(gc.get_referents(*followed))

    def _special(self, kind: Any, item: Any) -> Iterable[Any]:
        """What to follow in place of an object, all of whose references would be too many, or too few."""
        if kind is types.FunctionType:
            # Not its globals: they reach everything.
            return item.__closure__, item.__defaults__, item.__kwdefaults__
        if kind is threading.local:
            self.thread_locals.append(item)
        elif kind is _SCOPES:
            self.scopes.append(item)
        elif kind is _GREENLET:
            return item, [value for frame in greenlet_frames(item) for value in local_values(frame)]
        elif kind in _RUNNING and (self._running or not _RUNNING[kind](item)):
            return (item,)
        return ()


def _container(kind: type, not_in: frozenset[str]) -> Any:
    """As what the objects of a type are read: container, function, not at all, or else None."""
    if issubclass(kind, _NOT_FOLLOWED):
        return _NOT_FOLLOWED
    # By the class of classes: a metaclass may have attributes of its own, which run code.
    module = str(type.__getattribute__(kind, "__module__"))
    name = f"{module}.{type.__getattribute__(kind, '__name__')}"
    if module in not_in or name in not_in:
        return _NOT_FOLLOWED
    if name in SCOPES:
        return _SCOPES
    if issubclass(kind, greenlet_class()):
        return _GREENLET
    bases = (*_CONTAINERS, *_RUNNING, types.FunctionType, threading.local)
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
