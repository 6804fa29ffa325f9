"""Threads that do one thing at a time, when they are told to: what the functions of `tests.acting` run in.

Nothing here keeps a connection longer than a call: the frames of this file are alive as well, and what they
could reach would count as held.
"""

import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from otel_connleak.registry import Registry
from tests.support import toy
from tests.support.toy import SOURCE, Connection, ToyPool

PATIENCE = 30.0
"""Seconds in which an order is carried out."""

type Held = dict[int, Connection]
type Streams = dict[int, Iterator[Any]]
type Baggage = tuple[Held, Streams]
"""What a function returns."""
type Deed = Callable[[Held, Held, Streams], Any]
"""Something done with what an activation has: what it holds, what its caller lent it, its generators."""


class Failure(Exception):
    """Raised by an activation that is told to fail; ``kept`` says whether its traceback is kept."""

    def __init__(self, kept: bool) -> None:
        self.kept = kept


class ReusingPool(ToyPool):
    """Hands out what was given back last, as a pool does; a second release of the same is no release."""

    def __init__(self, registry: Registry, name: str | None) -> None:
        super().__init__(registry, name)
        self.name = name
        self.idle: list[Connection] = []

    def getconn(self) -> Connection:
        """Acquire for the caller."""
        connection = self.idle.pop() if self.idle else Connection()
        self._registry.acquire(SOURCE, connection, sys._getframe(1), self._track)
        return connection

    def putconn(self, connection: Connection) -> None:
        """Release; a direct connection is closed by that."""
        hold = self._registry.release(SOURCE, connection)
        if hold is not None:
            if self.name is not None:
                self.idle.append(connection)
            self._registry.released(hold)


@dataclass(frozen=True, slots=True)
class Order:
    """What an activation is to do next: ``acquire``, ``call``, ``do``, ``return`` or ``raise``."""

    word: str
    key: int = 0
    pool: ReusingPool | None = None
    function: str = ""
    deed: Deed = lambda held, box, streams: None
    baggage: Callable[[Held, Streams], Baggage] = lambda held, streams: ({}, {})
    kept: bool = False


class Actor:
    """A thread that runs one function, which does what it is told.

    Args:
        function: is called with this actor and an empty box.
        known: weak references to the connections by their keys, shared by all actors.
    """

    def __init__(
        self, function: Callable[["Actor", Held], object], known: dict[int, weakref.ref[Connection]]
    ) -> None:
        self._orders: SimpleQueue[Order] = SimpleQueue()
        self._done: SimpleQueue[None] = SimpleQueue()
        self._known = known
        self._error: BaseException | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._run, args=(function,), daemon=True)
        self._thread.start()
        self._wait()

    def order(self, word: str, **about: Any) -> None:
        """Have something done, and wait until it is."""
        assert not self._ended, f"there is nobody who could {word}"
        self._orders.put(Order(word, **about))
        self._wait()

    def join(self) -> None:
        """Wait for the end of the thread; its last function has returned."""
        self._thread.join(PATIENCE)

    def abandon(self) -> None:
        """End the thread, whatever it is in."""
        for _ in range(200):
            self._orders.put(Order("raise"))
        self.join()

    @property
    def ident(self) -> int | None:
        """The thread's identity."""
        return self._thread.ident

    def _wait(self) -> None:
        self._done.get(timeout=PATIENCE)
        if self._error is not None:
            raise self._error

    def _run(self, function: Callable[["Actor", Held], object]) -> None:
        try:
            function(self, {})
        except Failure as failure:
            caught(failure)
        except BaseException as error:
            self._error = error
        self._ended = True
        self._done.put(None)

    # --- for the functions in the thread -------------------------------------------------------------------

    def next_order(self) -> Order:
        """The last order is carried out; wait for the next one."""
        self._done.put(None)
        return self._orders.get()

    def know(self, key: int, connection: Connection) -> Connection:
        """Give a connection its key, or check that it has it; returns the connection."""
        known = self._known.setdefault(key, weakref.ref(connection))
        assert known() is connection
        return connection


def caught(failure: Failure) -> None:
    """A failure ends here; its traceback may be kept, as a logging library would."""
    if failure.kept:
        toy.park(failure)


def same[T](thing: T) -> T:
    """Give back what it is given."""
    return thing


def receive(held: Held, streams: Streams, baggage: Baggage) -> None:
    """Take what a function has returned."""
    held.update(baggage[0])
    streams.update(baggage[1])


def part_with(connection: Connection, pool: ReusingPool, fate: str) -> None:
    """Do with a connection what a generator does at its end: ``release``, ``park`` or ``forget`` it."""
    if fate == "release":
        pool.putconn(connection)
    elif fate == "park":
        toy.park(connection)


def releases(pool: ReusingPool, key: int, times: int) -> Deed:
    """Release a connection, once or more often."""

    def deed(held: Held, box: Held, streams: Streams) -> None:
        connection = held.pop(key)
        for _ in range(times):
            pool.putconn(connection)

    return deed


def finds(pool: ReusingPool, known: weakref.ref[Connection]) -> Deed:
    """Release a connection that somebody else has lost."""

    def deed(held: Held, box: Held, streams: Streams) -> None:
        connection = known()
        assert connection is not None
        pool.putconn(connection)

    return deed


def moves(key: int, place: Callable[[Connection], object]) -> Deed:
    """Put a connection somewhere else."""
    return lambda held, box, streams: place(held.pop(key))


def lends(key: int) -> Deed:
    """Put a connection into the container that the caller gave."""
    return lambda held, box, streams: box.update({key: held.pop(key)})


def takes(key: int, place: list[Connection] | Held) -> Deed:
    """Take a connection from somewhere else: the last of a list, or the one with its key."""
    at = key if isinstance(place, dict) else -1
    return lambda held, box, streams: held.update({key: place.pop(at)})


def drops(key: int) -> Deed:
    """Let go of a connection."""
    return lambda held, box, streams: held.pop(key)


def tangle(connection: Connection) -> None:
    """Make a connection part of a cycle that nobody refers to."""
    cycle: list[object] = [connection]
    cycle.append(cycle)


def streams_from(key: int, stream: Callable[[], Iterator[Any]], conn: int, hand_out: bool) -> Deed:
    """Begin to iterate over a generator."""

    def deed(held: Held, box: Held, streams: Streams) -> None:
        streams[key] = stream()
        first = next(streams[key])
        if hand_out:
            held[conn] = first

    return deed


def finishes(key: int) -> Deed:
    """Iterate over a generator to its end."""
    return lambda held, box, streams: list(streams.pop(key))


def closes(key: int) -> Deed:
    """Close a generator half-way."""
    return lambda held, box, streams: streams.pop(key).close()  # type: ignore[attr-defined] # a generator


def lets_go(key: int) -> Deed:
    """Drop a generator half-way."""
    return lambda held, box, streams: streams.__delitem__(key)


def packs(keys: list[int], streams_too: list[int]) -> Callable[[Held, Streams], Baggage]:
    """Return some connections and generators; the function itself has them no more."""
    return lambda held, streams: (
        {key: held.pop(key) for key in keys},
        {key: streams.pop(key) for key in streams_too},
    )
