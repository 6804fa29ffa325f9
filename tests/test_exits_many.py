"""``function_exited`` in an activation that owns many holds, or whose identity was another one's before."""

import gc
import sys
from collections import deque
from collections.abc import Iterator
from itertools import permutations
from types import FrameType

import pytest

from otel_connleak.hold import Hold
from tests.support import toy
from tests.support.core import Core
from tests.support.toy import Connection, ToyPool

GRACE = 5.0
MANY = 20_000


@pytest.fixture
def core() -> Iterator[Core]:
    """The core with `sys.monitoring` switched on."""
    core = Core(evidence="function_exited")
    with core.watching_exits():
        yield core
    toy.forget()


def holds_in_memory() -> int:
    """How many holds exist, open or not."""
    gc.collect()
    return sum(type(thing) is Hold for thing in gc.get_objects())


@pytest.mark.parametrize("order", [*permutations(range(3))])
@pytest.mark.parametrize("leaks", range(3))
def test_any_order_of_releases(core: Core, order: tuple[int, ...], leaks: int) -> None:
    """Of three holds of one activation the one that is not released is reported, in every order."""

    def acquires_three() -> None:
        connections = [core.pool.getconn() for _ in range(3)]
        toy.park(connections[leaks])
        for index in order:
            if index != leaks:
                core.pool.putconn(connections[index])

    acquires_three()
    core.after(GRACE)
    assert [leak.hold.number for leak in core.reports] == [leaks + 1]


def test_several_are_all_reported(core: Core) -> None:
    """What an activation has lost more than once is lost more than once."""

    def acquires_five() -> None:
        for _ in range(5):
            toy.park(core.pool.getconn())

    acquires_five()
    core.after(GRACE)
    assert [leak.hold.number for leak in core.reports] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("window", [1, 2, 3, 10])
def test_memory_of_a_long_activation(core: Core, window: int) -> None:
    """An activation that always holds some, and releases the oldest, does not remember those that it had."""
    before = holds_in_memory()
    held: deque[Connection] = deque()
    for _ in range(MANY // 10):
        held.append(core.pool.getconn())
        if len(held) > window:
            core.pool.putconn(held.popleft())

    assert holds_in_memory() - before == window
    while held:
        core.pool.putconn(held.pop())
    assert holds_in_memory() == before


def test_memory_when_another_thread_releases(core: Core) -> None:
    """The same where all releases happen in another thread: at most the newest hold is left behind."""
    before = holds_in_memory()
    with toy.worker() as do:
        for _ in range(MANY // 10):
            do(core.pool.putconn, core.pool.getconn())

    assert holds_in_memory() - before <= 1
    assert core.registry.holds() == []


def test_time_of_many_holds(core: Core) -> None:
    """Acquiring a lot in one activation is no more work for the last one than for the first."""
    steps = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal steps
        steps += event in ("call", "c_call")

    connections = []
    work = []
    for number in range(MANY):
        if number in (10, 20, MANY - 1):
            steps = 0
            sys.setprofile(count)
            connections.append(core.pool.getconn())
            sys.setprofile(None)
            work.append(steps)
        else:
            connections.append(core.pool.getconn())
    for connection in connections:
        core.pool.putconn(connection)

    assert work[1] == work[2]
    assert core.registry.holds() == []


def keep(_pool: ToyPool, connection: Connection | None) -> None:
    """Keep a connection alive."""
    toy.park(connection)


def give_back(pool: ToyPool, connection: Connection | None) -> None:
    """Release, if there is something to release."""
    if connection is not None:
        pool.putconn(connection)


def suspended(pool: ToyPool, *, acquires: bool) -> Iterator[int]:
    """Holds what somebody else keeps alive, and is dropped without an event on newer versions."""
    connection = pool.getconn() if acquires else None
    keep(pool, connection)
    yield 1


def other(pool: ToyPool, *, acquires: bool) -> Iterator[int]:
    """Its activation takes as much memory as that of the one above."""
    connection = pool.getconn() if acquires else None
    give_back(pool, connection)
    yield 1


def test_identity_of_a_frame_is_used_again(core: Core) -> None:
    """An activation is known by its frame's identity and its code: it never answers for one that is gone."""
    assert list(other(core.pool, acquires=True)) == [1]  # its exits are watched from now on
    iterators = [suspended(core.pool, acquires=True) for _ in range(50)]
    for iterator in iterators:
        next(iterator)
    gone = {hold.owner for hold in core.registry.holds()}
    iterators = [other(core.pool, acquires=False) for _ in range(500)]
    del iterator
    again = set()
    for iterator in iterators:
        next(iterator)
        again.add(id(iterator.gi_frame))  # type: ignore[attr-defined] # it is a generator
    for iterator in iterators:
        assert list(iterator) == []
    core.after(GRACE)

    assert gone & again, "no identity was used again: the test shows nothing"
    # Python 3.12 throws an exception into a generator that is dropped: then that is the exit.
    assert len(core.reports) == (50 if sys.version_info < (3, 13) else 0)
    assert {leak.short for leak in core.reports} <= {"suspended"}
