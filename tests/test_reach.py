"""Can somebody still release it? Asked of real threads, tasks, modules and heaps."""

import asyncio
import contextlib
import gc
import queue
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from otel_connleak.callsite import CallSites
from otel_connleak.config import load
from otel_connleak.reach import Reach, Reachability
from tests.support import toy
from tests.support.toy import Connection, ask, parked

in_module: dict[str, Any] = {}
"""Module state of the application."""


class Session:
    """A class of the application with state of its own."""

    current: object = None


@pytest.fixture
def reach() -> Iterator[Reachability]:
    """The question, with the modules of the test support as libraries."""
    settings, _ = load({"library_modules": "tests.support"}, environ={})
    yield Reachability(CallSites(settings).is_application_module)
    toy.forget()
    in_module.clear()
    Session.current = None


def test_nobody(reach: Reachability) -> None:
    """It is alive, but nobody who could release it has a way to it."""
    identity, _ = parked()
    assert ask(reach, identity) is Reach.NOBODY


def test_the_callers_own_frames(reach: Reachability) -> None:
    """Whoever asks is alive as well: a function that shuts the SDK down may still release what it holds."""
    connection = Connection()
    assert reach.who({id(connection): (0, None)}) == {id(connection): Reach.LIVE}


class Slotted:
    """An object without a dictionary."""

    __slots__ = ("kept",)

    def __init__(self, kept: object) -> None:
        self.kept = kept


def default_argument(connection: Connection) -> object:
    """A function that keeps it as a default value."""

    def function(connection: Connection = connection) -> Connection:
        return connection

    return function


def queued(connection: Connection) -> object:
    """A queue in which it waits for a worker."""
    waiting: queue.Queue[Connection] = queue.Queue()
    waiting.put(connection)
    return waiting


def suspended(connection: Connection) -> object:
    """A generator that waits for its next iteration."""

    def generator() -> Iterator[Connection]:
        yield connection

    iterator = generator()
    next(iterator)
    return iterator


CARRIERS: dict[str, Callable[[Connection], object]] = {
    "local variable": lambda connection: connection,
    "nested containers": lambda connection: [({"key": {1: (connection,)}},)],
    "set": lambda connection: frozenset({connection}),
    "deque": lambda connection: deque([None, connection]),
    "large list": lambda connection: [[number] for number in range(5_000)] + [[connection]],
    "large dict": lambda connection: {number: [number] for number in range(5_000)} | {-1: [connection]},
    "large dict's key": lambda connection: dict.fromkeys([*range(5_000), connection]),
    "attribute": lambda connection: type("Session", (), {})().__dict__.setdefault("c", [connection]),
    "slot": Slotted,
    "closure": lambda connection: lambda: connection,
    "default argument": default_argument,
    "bound method": lambda connection: [connection].count,
    "queue": queued,
    "suspended generator": suspended,
}


@pytest.mark.parametrize("carrier", CARRIERS)
def test_live_activation_in_another_thread(reach: Reachability, carrier: str) -> None:
    """A function that still runs reaches it through whatever it has; once it is over, nobody does."""
    connection = Connection()
    identity = id(connection)
    toy.park(connection)
    given: list[object] = [CARRIERS[carrier](connection)]
    del connection

    def holds(wait: Callable[[], None]) -> None:
        held = given.pop()
        wait()
        del held

    with toy.in_other_thread(holds):
        assert ask(reach, identity) is Reach.LIVE
    assert ask(reach, identity) is Reach.NOBODY


def test_owner_that_still_runs(reach: Reachability) -> None:
    """An owner needs no way that can be seen: a ``with`` without ``as`` keeps its connection out of sight."""
    identity, _ = parked()
    owners: list[FrameType] = []

    def owner(wait: Callable[[], None]) -> None:
        with contextlib.nullcontext():
            owners.append(sys._getframe())
            wait()

    def owner_with_nothing_hidden(wait: Callable[[], None]) -> None:
        owners.append(sys._getframe())
        wait()

    with toy.in_other_thread(owner):
        known = (id(owners[0]), owner.__code__)
        other = (id(owners[0]), test_nobody.__code__)
        assert reach.who({identity: known}) == {identity: Reach.LIVE}
        assert reach.who({identity: other}) == {identity: Reach.NOBODY}
    assert reach.who({identity: known}) == {identity: Reach.NOBODY}
    with toy.in_other_thread(owner_with_nothing_hidden):
        known = (id(owners[1]), owner_with_nothing_hidden.__code__)
        assert reach.who({identity: known}) == {identity: Reach.NOBODY}


def test_suspended_task(reach: Reachability) -> None:
    """A task that waits can still release it, and so can the coroutine that it waits for."""

    async def inner(event: asyncio.Event, ready: asyncio.Event, given: list[Connection]) -> None:
        connection = given.pop()
        ready.set()
        await event.wait()
        del connection

    async def main() -> None:
        connection = Connection()
        identity = id(connection)
        toy.park(connection)
        event, ready, given = asyncio.Event(), asyncio.Event(), [connection]
        del connection
        task = asyncio.create_task(outer(inner(event, ready, given)))
        await ready.wait()
        loops = [asyncio.get_running_loop()]
        del event  # the way is through the task, and not through this coroutine
        coroutine = task.get_coro()
        assert coroutine is not None
        del coroutine
        assert await asyncio.to_thread(ask, reach, identity, loops=loops) is Reach.LIVE
        task.cancel()
        await asyncio.wait([task])
        del task
        gc.collect()
        assert await asyncio.to_thread(ask, reach, identity, loops=loops) is Reach.NOBODY

    async def outer(awaited: Any) -> None:
        await awaited

    asyncio.run(main())


def test_module_state(reach: Reachability) -> None:
    """A variable of a module, and an attribute of a class, are the module's."""
    variable, reference = parked()
    assert ask(reach, variable) is Reach.NOBODY
    in_module["key"] = [reference()]
    assert ask(reach, variable) is Reach.MODULE
    attribute, reference = parked()
    assert ask(reach, attribute) is Reach.NOBODY
    Session.current = reference()
    assert ask(reach, attribute) is Reach.MODULE


def test_live_activation_goes_before_module_state(reach: Reachability) -> None:
    """Both could release it: the activation counts, except when the question is whether it lies idle."""
    connection = in_module["key"] = Connection()

    assert ask(reach, id(connection)) is Reach.LIVE
    assert ask(reach, id(connection), module_first=True) is Reach.MODULE


def test_several_questions_at_once(reach: Reachability) -> None:
    """One search answers for all."""
    nobody, _ = parked()
    kept = in_module["key"] = Connection()
    module = id(kept)
    del kept
    connection = Connection()
    questions = dict.fromkeys((nobody, module, id(connection)), (0, None))

    assert reach.who(questions) == {
        nobody: Reach.NOBODY,
        module: Reach.MODULE,
        id(connection): Reach.LIVE,
    }


def test_local_to_a_thread(reach: Reachability) -> None:
    """What a `threading.local` of the application keeps is its thread's, and nobody's when that has ended."""
    in_module["local"] = local = threading.local()
    identity, reference = parked()

    def keeps(wait: Callable[[], None]) -> None:
        local.connection = reference()
        wait()

    with toy.in_other_thread(keeps):
        assert ask(reach, identity) is Reach.THREAD
    gc.collect()
    assert ask(reach, identity) is Reach.NOBODY
