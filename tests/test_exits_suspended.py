"""``function_exited`` with generators, coroutines and context managers: what is suspended has not exited."""

import asyncio
import gc
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from otel_connleak.hold import Evidence
from tests.support import toy
from tests.support.core import Core
from tests.support.toy import Connection, ToyPool

GRACE = 5.0


@pytest.fixture
def core() -> Iterator[Core]:
    """The core with `sys.monitoring` switched on."""
    core = Core(evidence="function_exited,dropped")
    with core.watching_exits():
        yield core
    toy.forget()


def rows(pool: ToyPool, *, correct: bool = True) -> Iterator[int]:
    """A generator that holds a connection while it is iterated."""
    connection = pool.getconn()
    yield 1
    yield 2
    if correct:
        pool.putconn(connection)
    else:
        toy.park(connection)


def test_suspended_generator_has_not_exited(core: Core) -> None:
    """However long it waits for the next iteration; and then it releases."""
    iterator = rows(core.pool)
    next(iterator)
    core.after(10 * GRACE)
    assert core.reports == []
    assert list(iterator) == [2]
    assert core.registry.holds() == []


def test_generator_that_ends_without_releasing(core: Core) -> None:
    """Its end is an exit."""
    assert list(rows(core.pool, correct=False)) == [1, 2]
    core.after(GRACE)
    assert core.reported == [("rows", "function_exited")]


def test_generator_that_is_closed_half_way(core: Core) -> None:
    """Closing throws an exception into a generator that has something to clean up, which is an exit."""

    def cleans_up() -> Generator[int, None, None]:
        connection = core.pool.getconn()
        try:
            yield 1
        finally:
            toy.park(connection)

    iterator = cleans_up()
    next(iterator)
    iterator.close()
    core.after(GRACE)
    assert [leak.short.rpartition(".")[2] for leak in core.reports] == ["cleans_up"]


def test_generator_that_is_dropped_half_way(core: Core) -> None:
    """Newer versions emit no event then: that the connection is gone is the second net, on all of them."""
    iterator = rows(core.pool)
    next(iterator)
    del iterator
    gc.collect()
    core.after(0.0)
    assert core.reports[0].evidence[0] is Evidence.DROPPED
    assert core.reported == [("rows", "dropped")]


def sessions(pool: ToyPool) -> Iterator[Connection]:
    """A dependency of a web framework: yields what it acquires, and releases it afterwards."""
    connection = pool.getconn()
    try:
        yield connection
    finally:
        pool.putconn(connection)


def test_yielded_connection_belongs_to_the_consumer(core: Core) -> None:
    """``next(get_db())``: whoever took it out of the generator is to blame when that never goes on."""

    def takes_it() -> None:
        generator = sessions(core.pool)
        toy.park((generator, next(generator)))

    takes_it()
    core.after(GRACE)
    assert [leak.short.rpartition(".")[2] for leak in core.reports] == ["takes_it"]


def test_generator_that_releases_what_it_yielded(core: Core) -> None:
    """The consumer may be any number of functions; the generator releases at its end."""

    def consume() -> None:
        for connection in sessions(core.pool):
            assert isinstance(connection, Connection)
            core.after(2 * GRACE)

    consume()
    assert core.reports == []
    assert core.registry.holds() == []


@contextmanager
def helper(pool: ToyPool) -> Iterator[Connection]:
    """A context manager of the application's own."""
    with pool.connection() as connection:
        yield connection


def test_context_manager_helper(core: Core) -> None:
    """The function that uses the ``with`` owns it, and gives it back on every path."""
    owners = []

    def uses_it() -> None:
        with helper(core.pool) as connection:
            owners.append(core.pool.hold_of(connection).site.short.rpartition(".")[2])
            core.after(2 * GRACE)
            raise OverflowError

    with pytest.raises(OverflowError):
        uses_it()
    assert owners == ["uses_it"]
    assert core.reports == []
    assert core.registry.holds() == []


def test_entered_and_never_left(core: Core) -> None:
    """Whoever enters a context manager by hand and returns is to blame."""

    def enters() -> None:
        manager = helper(core.pool)
        manager.__enter__()
        toy.park(manager)

    enters()
    core.after(GRACE)
    assert [leak.short.rpartition(".")[2] for leak in core.reports] == ["enters"]


async def awaits(core: Core, ready: asyncio.Event, leave: asyncio.Event, *, correct: bool) -> None:
    """Holds a connection while it waits."""
    connection = await core.pool.getconn_async()
    ready.set()
    try:
        await leave.wait()
    finally:
        if correct:
            core.pool.putconn(connection)
        else:
            toy.park(connection)


@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize("correct", [False, True])
def test_coroutine(core: Core, correct: bool, cancelled: bool) -> None:
    """A coroutine that waits has not exited; one that returns or is cancelled has."""

    async def main() -> None:
        ready, leave = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(awaits(core, ready, leave, correct=correct))
        await ready.wait()
        core.after(10 * GRACE)
        assert core.reports == []
        if cancelled:
            task.cancel()
        leave.set()
        await asyncio.wait([task])
        core.after(GRACE)

    asyncio.run(main())
    assert core.reported == ([] if correct else [("awaits", "function_exited")])


async def async_rows(pool: ToyPool) -> Any:
    """An asynchronous generator that yields its connection."""
    connection = await pool.getconn_async()
    await asyncio.sleep(0)
    try:
        yield connection
    finally:
        pool.putconn(connection)


@pytest.mark.parametrize("correct", [False, True])
def test_asynchronous_generator(core: Core, correct: bool) -> None:
    """An await inside of it is no yield; what it yields is the consumer's; what it releases is no leak."""

    async def consumes() -> None:
        generator = async_rows(core.pool)
        connection = await anext(generator)
        core.after(10 * GRACE)
        if correct:
            await generator.aclose()
        else:
            toy.park((generator, connection))

    async def main() -> None:
        await consumes()
        core.after(GRACE)
        reported = [leak.short.rpartition(".")[2] for leak in core.reports]
        toy.forget()
        assert reported == ([] if correct else ["consumes"])

    asyncio.run(main())


def test_asynchronous_context_manager_helper(core: Core) -> None:
    """The coroutine that uses the ``async with`` owns it."""

    @asynccontextmanager
    async def transaction() -> AsyncIterator[Connection]:
        connection = await core.pool.getconn_async()
        try:
            yield connection
        finally:
            core.pool.putconn(connection)

    async def uses_it() -> str:
        async with transaction() as connection:
            core.after(2 * GRACE)
            return core.pool.hold_of(connection).site.short.rpartition(".")[2]

    assert asyncio.run(uses_it()) == "uses_it"
    assert core.reports == []
