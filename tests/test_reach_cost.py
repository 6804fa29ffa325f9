"""What the search costs the host: it keeps nothing alive, and lets the interpreter lock go."""

import gc
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from otel_connleak.frames import local_values
from otel_connleak.reach import Reach, Reachability, carries
from tests.support import toy
from tests.support.toy import Connection

MILLION = 1_000_000


@pytest.mark.parametrize("also_a_cell", [False, True])
def test_deleted_local_is_freed(also_a_cell: bool) -> None:
    """Looking at a function's variables leaves nothing in its frame: what it deletes is freed at once."""
    looked = threading.Event()
    gone: list[bool] = []

    def holds(wait: Callable[[], None]) -> None:
        connection = Connection()
        reference = weakref.ref(connection)
        if also_a_cell:
            toy.calls(lambda: connection)  # noqa: F821 -- deleted further down
        wait()
        looked.wait()
        del connection
        gone.append(reference() is None)

    with toy.in_other_thread(holds):
        for frame in list(sys._current_frames().values()):
            above = frame
            while above is not None:
                local_values(above)
                above = above.f_back  # type: ignore[assignment] # None at the end
        del frame, above
        looked.set()
    assert gone == [True]


def test_search_keeps_nothing() -> None:
    """After the answer nothing that was looked at is kept alive."""
    connection = Connection()
    reference = weakref.ref(connection)
    reach = Reachability(lambda _name, _namespace: True)
    assert reach.who({id(connection): (0, None)}) == {id(connection): Reach.LIVE}
    del connection
    assert reference() is None


def test_local_values() -> None:
    """Arguments, variables and free variables; those that are not bound are left out."""

    def outer(argument: int, *rest: int, **named: int) -> list[Any]:
        cell = 4
        if argument < 0:
            unbound = 5
            return [unbound]

        def inner() -> list[Any]:
            return [cell, *local_values(sys._getframe())]

        return [local_values(sys._getframe(), {"argument", "rest"}), inner()]

    assert outer(1, 2, named=3) == [[1, (2,)], [4, 4]]


def test_local_values_of_a_class_body() -> None:
    """Class bodies have their variables in a dictionary, modules theirs are no locals."""

    class Body:
        attribute = Connection()
        values = local_values(sys._getframe())

    assert Body.attribute in Body.values
    namespace: dict[str, Any] = {"sys": sys, "local_values": local_values, "kept": Connection()}
    exec("values = local_values(sys._getframe())", namespace)
    assert namespace["values"] == []


def test_carries_is_bounded() -> None:
    """At a function's exit only a small part of what it returns is looked at."""
    target = Connection()
    near: list[Any] = [[] for _ in range(100)] + [[target]]
    far: list[Any] = [[number] for number in range(100_000)] + [[target]]

    assert carries(target, id(target))
    assert carries(near, id(target))
    assert not carries(far, id(target))
    assert not carries(None, id(target))


def small_objects() -> object:
    """A million objects in lists of lists."""
    return [[[number] for number in range(1_000)] for _ in range(MILLION // 1_000)]


def large_list() -> object:
    """One list of a million objects."""
    return [[] for _ in range(MILLION)]


def large_dict() -> object:
    """One dictionary of a million objects."""
    return {number: [] for number in range(MILLION)}


def instances() -> object:
    """Instances with an attribute, a million objects in all."""
    return [Instance(number) for number in range(MILLION // 3)]


class Instance:
    """An object with a container."""

    def __init__(self, number: int) -> None:
        self.kept = [[number]]


@pytest.fixture
def no_collector() -> Iterator[None]:
    """The garbage collector's own pauses are not ours."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("heap", [small_objects, large_list, large_dict, instances])
def test_interpreter_lock_is_let_go(heap: Callable[[], object]) -> None:
    """On a heap of a million objects the search pauses about each millisecond of its own processor time."""
    stretches: list[float] = []
    since = 0.0

    def pause(_seconds: float) -> None:
        nonlocal since
        stretches.append(time.thread_time() - since)
        time.sleep(0)  # lets the lock go
        since = time.thread_time()

    def search() -> None:
        nonlocal since
        reach = Reachability(lambda _name, _namespace: False, pause)
        since = time.thread_time()
        reach.who({1: (0, None)})
        stretches.append(time.thread_time() - since)

    def holds(wait: Callable[[], None]) -> None:
        held = heap()
        wait()
        del held

    with toy.in_other_thread(holds):
        thread = threading.Thread(target=search)
        thread.start()
        thread.join()
    stretches.sort()

    assert len(stretches) > 50
    assert sum(stretches) < 10
    assert stretches[len(stretches) // 2] < 0.001
    assert stretches[-len(stretches) // 100] < 0.0015, "one in a hundred"
    assert stretches[-1] < 0.01, "the longest"
