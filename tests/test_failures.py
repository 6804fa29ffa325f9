"""A rollback because of an exception is no report, wherever it was handled; an unrelated one is no excuse."""

import contextlib
import dis
import gc
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

import pytest

from otel_connleak.connection import Transaction
from otel_connleak.failures import _exception_table, _handlers
from tests.support import toy
from tests.support.core import Core
from tests.support.toy import Connection, ToyPool

INSERT, OPEN = "INSERT INTO orders VALUES (1)", Transaction.OPEN


@pytest.fixture
def core() -> Iterator[Core]:
    """A core that watches exits."""
    core = Core()
    with core.watching_exits():
        yield core
    toy.forget()


def insert(pool: ToyPool, connection: Connection) -> None:
    """A function of a repository that leaves the commit to its caller."""
    pool.execute(connection, INSERT, OPEN)


def insert_too(pool: ToyPool, connection: Connection) -> None:
    """Another one."""
    pool.execute(connection, INSERT, OPEN)


def check(number: int) -> None:
    """What a handler does after it has written."""
    if number < 0:
        raise ValueError(number)


def view(pool: ToyPool, connection: Connection) -> None:
    """A handler of a framework, which fails after the repository's function has returned."""
    insert(pool, connection)
    check(-1)


def helper_fails(pool: ToyPool, connection: Connection) -> None:
    """A handler that catches what another function has raised, and leaves out the commit."""
    try:
        insert(pool, connection)
        check(-1)
        pool.execute(connection, "COMMIT", Transaction.NONE)
    except ValueError:
        return


def helper_fails_in_a_block(pool: ToyPool, connection: Connection) -> None:
    """The same, with the write in a block of its own."""
    try:
        with pytest.MonkeyPatch.context():
            insert(pool, connection)
        check(-1)
        pool.execute(connection, "COMMIT", Transaction.NONE)
    except ValueError:
        return


def fails_itself(pool: ToyPool, connection: Connection) -> None:
    """A handler that raises and catches by itself, and leaves out the commit."""
    try:
        insert(pool, connection)
        raise ValueError
    except ValueError:
        return


def fails_in_c(pool: ToyPool, connection: Connection) -> None:
    """The same with an exception of a function that is written in C, and a ``finally`` around it."""
    try:
        try:
            insert(pool, connection)
            int("nothing")
        except ValueError:
            return
    finally:
        check(1)


def fails_after_a_block(pool: ToyPool, connection: Connection) -> None:
    """The same after a block, for which the interpreter has handlers of its own between the others."""
    try:
        with contextlib.nullcontext():
            check(1)
        insert(pool, connection)
        int("nothing")
    except ValueError:
        return


def suppresses(pool: ToyPool, connection: Connection) -> None:
    """The same by a context manager."""
    with contextlib.suppress(ValueError):
        insert(pool, connection)
        int("nothing")


def fails_before(pool: ToyPool, connection: Connection) -> None:
    """A handler that catches something, writes after it, and forgets to commit."""
    try:
        int("nothing")
    except ValueError:
        insert(pool, connection)


def fails_in_a_loop(pool: ToyPool, connection: Connection) -> None:
    """The first attempt fails after its write, the second writes and forgets to commit."""
    for attempt in ("nothing", "1"):
        try:
            insert(pool, connection)
            int(attempt)
        except ValueError:
            continue


def missing_in_a_dictionary(pool: ToyPool, connection: Connection) -> None:
    """A handler that catches an exception of its own which has nothing to do with what it has written."""
    insert(pool, connection)
    try:
        int("nothing")
    except ValueError:
        return


def missing_in_the_cache(pool: ToyPool, connection: Connection) -> None:
    """A handler that catches an exception which has nothing to do with what it has written."""
    insert(pool, connection)
    try:
        check(-1)
    except ValueError:
        return


def unpacks(pool: ToyPool, connection: Connection) -> None:
    """The same inside of a ``try`` that is around both."""
    try:
        insert(pool, connection)
        missing_elsewhere()
    except KeyError:
        return


def missing_elsewhere() -> None:
    """A function that handles its own exceptions."""
    try:
        check(-1)
    except ValueError:
        return


def goes_on(pool: ToyPool, connection: Connection) -> None:
    """A handler that goes on after a failure, writes again, and forgets to commit."""
    helper_fails(pool, connection)
    insert(pool, connection)


def goes_on_after_a_view(pool: ToyPool, connection: Connection) -> None:
    """The same where the exception has left a function that had written."""
    try:
        view(pool, connection)
    except ValueError:
        insert(pool, connection)


@pytest.mark.parametrize(
    ("handler", "reported"),
    [
        (view, []),
        (helper_fails, []),
        (helper_fails_in_a_block, []),
        (fails_itself, []),
        (fails_in_c, []),
        (fails_after_a_block, []),
        (suppresses, []),
        (fails_before, [1]),
        (fails_in_a_loop, [2]),
        (missing_in_a_dictionary, [1]),
        (missing_in_the_cache, [1]),
        (unpacks, [1]),
        (goes_on, [2]),
        (goes_on_after_a_view, [2]),
    ],
)
def test_released_when_it_is_handled(
    core: Core, handler: Callable[[ToyPool, Connection], None], reported: list[int]
) -> None:
    """A framework handles what a handler raises, and releases when that is over, as Flask does."""
    connection = core.pool.getconn()
    for again in (True, False):  # the second time most lines are switched off
        with contextlib.suppress(ValueError):
            handler(core.pool, connection)
        if again:
            core.pool.execute(connection, "ROLLBACK", Transaction.NONE)
    core.pool.putconn(connection)
    core.after(0.0)

    assert [leak.writes for leak in core.reports] == reported


def sessions(pool: ToyPool) -> Iterator[Connection]:
    """A dependency of a framework, which releases when it is run on."""
    connection = pool.getconn()
    try:
        yield connection
    finally:
        pool.putconn(connection)


def writes_to_session(pool: ToyPool, fails: bool) -> None:
    """Takes the session without the framework: nobody runs the dependency on, and nobody commits."""
    dependency = sessions(pool)
    insert(pool, next(dependency))
    if fails:
        raise ValueError


def rows_written(pool: ToyPool) -> Iterator[int]:
    """Writes row by row, and commits at its end."""
    connection = pool.getconn()
    try:
        for number in range(3):
            insert(pool, connection)
            yield number
        pool.execute(connection, "COMMIT", Transaction.NONE)
    finally:
        pool.putconn(connection)


def stops_at_the_first(pool: ToyPool) -> None:
    """Breaks the generator off."""
    for _ in rows_written(pool):
        break


@pytest.mark.parametrize(
    ("function", "reported"),
    [
        (lambda pool: writes_to_session(pool, fails=False), [1]),
        (lambda pool: writes_to_session(pool, fails=True), []),
        (stops_at_the_first, []),
    ],
)
def test_generator(core: Core, function: Callable[[ToyPool], None], reported: list[int]) -> None:
    """A generator that is closed half-way is a reason if it has written itself, and else is none."""
    with contextlib.suppress(ValueError):
        function(core.pool)
    gc.collect()
    core.after(0.0)

    assert [leak.writes for leak in core.reports] == reported


async def write_later(pool: ToyPool, connection: Connection) -> None:
    """A coroutine of a repository."""
    insert(pool, connection)


async def view_later(pool: ToyPool, connection: Connection) -> None:
    """An asynchronous handler, which fails after it has awaited the repository."""
    await write_later(pool, connection)
    check(-1)


def test_coroutine(core: Core) -> None:
    """The same for coroutines."""
    connection = core.pool.getconn()
    with pytest.raises(ValueError, match="-1"):
        view_later(core.pool, connection).send(None)
    core.pool.putconn(connection)
    core.after(0.0)

    assert core.reports == []


def test_nothing_is_kept(core: Core) -> None:
    """What was on the stack at a write is forgotten with the transaction, also of ten thousand writes."""
    connection = core.pool.getconn()
    for number in range(10_000):
        (insert if number % 2 else insert_too)(core.pool, connection)
    assert len(core.exits.failures.watched) <= 50
    assert len(core.pool.hold_of(connection).inner.written_in) <= 50
    core.pool.execute(connection, "COMMIT", Transaction.NONE)
    assert core.exits.failures.watched == {}
    core.pool.putconn(connection)


def test_endless_recursion(core: Core) -> None:
    """Of a deep stack only the nearest functions are remembered."""
    connection = core.pool.getconn()

    def deeper(levels: int) -> None:
        if levels:
            deeper(levels - 1)
        else:
            insert(core.pool, connection)

    deeper(200)
    assert len(core.exits.failures.watched) <= 50
    core.pool.putconn(connection)


def test_without_the_event(core: Core) -> None:
    """Where no exception is seen to leave a function, nothing is remembered."""
    core.exits.uninstall()
    connection = core.pool.getconn()
    insert(core.pool, connection)

    assert core.exits.failures.watched == {}
    core.pool.putconn(connection)


def functions() -> list[Any]:
    """Functions of all kinds, of this module and of the standard library."""
    gc.collect()
    found = [each for each in gc.get_objects() if type(each) is FunctionType]
    return [each for each in found if each.__code__.co_exceptiontable][:2_000]


def test_exception_table() -> None:
    """The table is read as the interpreter's own `dis` reads it."""
    for function in functions():
        entries = dis._parse_exception_table(function.__code__)  # type: ignore[attr-defined]  # is private
        assert list(_exception_table(function.__code__)) == [
            (entry.start, entry.end, entry.target) for entry in entries
        ]


def test_first_lines() -> None:
    """A handler is known by its first line, and never one without lines by that of the next."""
    for function in functions():
        code = function.__code__
        targets = {target for _, _, target in _exception_table(code)}
        for first, handler in _handlers(code).items():
            assert handler == max(target for target in targets if target <= first)
