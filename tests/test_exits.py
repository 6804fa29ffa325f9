"""``function_exited``: which activation ended, and where the connection went (real `sys.monitoring`)."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.support import toy
from tests.support.core import Core
from tests.support.toy import Connection, ToyPool

GRACE = 5.0


@pytest.fixture
def core() -> Iterator[Core]:
    """The core with `sys.monitoring` switched on, and nothing else that could see an exit."""
    core = Core(evidence="function_exited")
    with core.watching_exits():
        yield core
    toy.forget()


def forgets(pool: ToyPool) -> None:
    """Returns without releasing."""
    toy.park(pool.getconn())


def fails(pool: ToyPool) -> None:
    """Raises between acquire and release."""
    connection = pool.getconn()
    toy.park(connection)
    connection.no_such_method()  # type: ignore[attr-defined] # it raises
    pool.putconn(connection)


def releases(pool: ToyPool) -> None:
    """Does it right."""
    connection = pool.getconn()
    pool.putconn(connection)


def releases_and_fails(pool: ToyPool) -> None:
    """Raises, and does it right."""
    with pool.connection():
        raise ValueError


def call(function: Callable[[ToyPool], Any], pool: ToyPool) -> None:
    """Call and go on whatever happens."""
    try:
        function(pool)
    except (AttributeError, ValueError):
        pass


@pytest.mark.parametrize("function", [forgets, fails])
def test_exit_that_leaks(core: Core, function: Callable[[ToyPool], None]) -> None:
    """Returning and raising are exits, and are noted at the moment they happen."""
    core.clock.now += 10
    call(function, core.pool)
    core.after(GRACE)

    assert core.reported == [(function.__name__, "function_exited")]


@pytest.mark.parametrize("function", [releases, releases_and_fails])
def test_exit_that_does_not(core: Core, function: Callable[[ToyPool], None]) -> None:
    """Whoever has released may return and raise."""
    call(function, core.pool)
    core.after(GRACE)

    assert core.reports == []
    assert core.registry.holds() == []


class Cursor:
    """Carries a connection, as a driver's cursor does."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection


CARRIERS: dict[str, Callable[[Connection], Any]] = {
    "itself": lambda connection: connection,
    "tuple": lambda connection: (1, connection),
    "dict": lambda connection: {"connection": connection},
    "cursor": Cursor,
    "closure": lambda connection: lambda: connection,
    "method": lambda connection: closing(Cursor(connection)).__enter__,  # type: ignore[type-var]
}


@pytest.mark.parametrize("carrier", CARRIERS)
def test_returned_to_the_caller(core: Core, carrier: str) -> None:
    """What returns the connection, in whatever it is carried, hands it to its caller, who is to blame."""

    def helper() -> Any:
        return CARRIERS[carrier](core.pool.getconn())

    def caller() -> None:
        toy.park(helper())

    caller()
    core.after(GRACE)
    assert [leak.short.rpartition(".")[2] for leak in core.reports] == ["caller"]
    assert core.reports[0].function == f"{__name__}.test_returned_to_the_caller.caller"
    toy.forget()


def test_returned_to_a_caller_who_releases(core: Core) -> None:
    """Through any number of functions."""

    def innermost() -> Connection:
        return core.pool.getconn()

    def middle() -> Connection:
        return innermost()

    core.pool.putconn(middle())
    core.after(GRACE)
    assert core.reports == []


class UnitOfWork:
    """Opened by one method, closed by another."""

    def start(self, pool: ToyPool) -> None:
        """Acquire."""
        self.connection = pool.getconn()

    def finish(self, pool: ToyPool) -> None:
        """Release."""
        pool.putconn(self.connection)


def test_kept_on_self(core: Core) -> None:
    """A method that keeps it on ``self`` has not lost it: who made the object can release it."""

    def request(*, correct: bool) -> None:
        work = UnitOfWork()
        work.start(core.pool)
        core.after(10 * GRACE)
        if correct:
            work.finish(core.pool)
        else:
            toy.park(work)

    request(correct=True)
    assert core.reports == []
    request(correct=False)
    core.after(GRACE)
    assert core.reported == [("UnitOfWork.start", "function_exited")]


def test_kept_in_a_list_of_the_caller(core: Core) -> None:
    """The same for a container that was given as an argument."""
    connections: list[Connection] = []

    def fill(into: list[Connection]) -> None:
        into.append(core.pool.getconn())

    fill(connections)
    core.after(10 * GRACE)
    core.pool.putconn(connections.pop())
    assert core.reports == []


def test_init_keeps_for_whoever_makes_the_object(core: Core) -> None:
    """``__init__`` acquires for its caller, and so does what it calls."""

    class Repository:
        def __init__(self) -> None:
            self.connect()

        def connect(self) -> None:
            self.connection = core.pool.getconn()

    def makes_it() -> None:
        toy.park(Repository())

    makes_it()
    core.after(GRACE)
    assert [leak.short.rpartition(".")[2] for leak in core.reports] == ["makes_it"]


def test_released_by_another_thread(core: Core) -> None:
    """What is handed to another thread that releases it is no leak, and its owner forgets it."""

    def hands_over() -> None:
        thread = threading.Thread(target=core.pool.putconn, args=[core.pool.getconn()])
        thread.start()
        thread.join()

    hands_over()
    core.after(GRACE)
    assert core.reports == []


def recurse(pool: ToyPool, depth: int, leak_at: int) -> None:
    """Holds one connection at each depth, and does not release one of them."""
    connection = pool.getconn()
    if depth:
        recurse(pool, depth - 1, leak_at)
    if depth == leak_at:
        toy.park(connection)
    else:
        pool.putconn(connection)


@pytest.mark.parametrize("leak_at", range(4))
def test_recursion(core: Core, leak_at: int) -> None:
    """A code object is not an activation: of four activations the one that leaks is found, when it exits."""
    recurse(core.pool, 3, leak_at)
    (open_hold,) = core.registry.holds()
    core.after(GRACE)

    assert open_hold.number == 4 - leak_at
    assert [leak.hold.number for leak in core.reports] == [open_hold.number]


def test_threads_in_the_same_function(core: Core) -> None:
    """Two threads in one function: the one that leaks is reported, the other has released."""
    both = threading.Barrier(2)

    def work(*, correct: bool) -> None:
        connection = core.pool.getconn()
        both.wait()
        if correct:
            core.pool.putconn(connection)
        else:
            toy.park(connection)

    threads = [
        threading.Thread(target=work, kwargs={"correct": correct}, name=str(correct))
        for correct in (True, False)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    core.after(GRACE)
    assert [leak.thread for leak in core.reports] == ["False"]
