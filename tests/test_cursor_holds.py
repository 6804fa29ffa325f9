"""The holds of cursors: when they end, and which of them are reported."""

import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from otel_connleak.connection import Kind, Transaction
from otel_connleak.nested import CursorHold
from tests.leaking import kept
from tests.support import toy
from tests.support.core import Core
from tests.support.toy import FACTS, Connection, ToyPool

GRACE, OVERDUE = 20.0, 30.0
NONE, OPEN, ABORTED = Transaction.NONE, Transaction.OPEN, Transaction.ABORTED
INSERT, SELECT = "INSERT INTO orders VALUES (1)", "SELECT 1 FROM orders"


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    """Let go what a test has kept."""
    yield
    kept.clear()
    toy.forget()


@pytest.fixture
def core() -> Iterator[Core]:
    """A core that watches exits."""
    core = Core(grace=GRACE)
    with core.watching_exits():
        yield core


def insert(pool: ToyPool, connection: Connection, status: Transaction = OPEN) -> None:
    """A function of a repository that leaves the commit to its caller."""
    pool.execute(connection, INSERT, status)


class Cursor:
    """A cursor whose rows the server keeps."""


def open_cursor(core: Core, connection: Connection, **how: Any) -> tuple[Cursor, CursorHold]:
    """Open one, as an adapter does."""
    cursor = Cursor()
    tracked = core.registry.track(cursor, FACTS, lambda _: OPEN, core.pool.record, kind=Kind.CURSOR)
    hold = core.pool.hold_of(connection)
    return cursor, core.registry.transactions.open_cursor(hold, tracked, sys._getframe(1), **how)


@pytest.mark.parametrize(
    ("outlives", "ends"),
    [
        (False, ["close"]),
        (False, ["commit"]),
        (False, ["release"]),
        (True, ["commit", "close"]),
        (True, ["commit", "release"]),
    ],
)
def test_cursor_ends(core: Core, outlives: bool, ends: list[str]) -> None:
    """It ends with its close, its transaction (unless it outlives that) or its connection, once."""
    connection = core.pool.getconn()
    insert(core.pool, connection)
    cursor, hold = open_cursor(core, connection, outlives=outlives)
    act: dict[str, Callable[[], None]] = {
        "close": lambda: core.registry.transactions.close_cursor(hold),
        "commit": lambda: core.pool.execute(connection, "COMMIT", NONE),
        "release": lambda: core.pool.putconn(connection),
    }
    for end in ends:
        assert hold.is_open
        act[end]()
    assert not hold.is_open
    core.registry.transactions.close_cursor(hold)

    del cursor
    core.pass_time(2 * GRACE)
    assert [leak for leak in core.reports if leak.kind is Kind.CURSOR] == []


def leaves_cursor(core: Core, connection: Connection) -> None:
    """Read from a cursor and never close it."""
    cursor, _ = open_cursor(core, connection)
    toy.park(cursor)


def drops_cursor(core: Core, connection: Connection) -> weakref.ref[Cursor]:
    """Open a cursor and forget it."""
    return weakref.ref(open_cursor(core, connection)[0])


def test_cursor_left_open(core: Core) -> None:
    """A cursor that nobody can close is reported after the grace, while its connection is in good hands."""
    connection = core.pool.getconn()
    leaves_cursor(core, connection)
    core.pass_time(GRACE + 1)

    assert [(leak.short, leak.kind) for leak in core.reports] == [("leaves_cursor", Kind.CURSOR)]
    core.pool.putconn(connection)
    assert len(core.recovered) == 1


@pytest.mark.parametrize(
    ("seconds", "reported"), [(GRACE / 2, []), (1.2 * GRACE, [("drops_cursor", "dropped")])]
)
def test_dropped_cursor(core: Core, seconds: float, reported: list[tuple[str, str]]) -> None:
    """A cursor that is dropped ends with its transaction: it is reported only if that lasts."""
    connection = core.pool.getconn()
    assert drops_cursor(core, connection)() is None
    core.pass_time(seconds)
    core.pool.putconn(connection)
    core.pass_time(2 * GRACE)

    assert core.reported == reported


def leaves_all(core: Core) -> None:
    """Neither close, nor commit, nor release."""
    connection = core.pool.getconn()
    toy.park(connection)
    insert(core.pool, connection)
    leaves_cursor(core, connection)


def test_one_report_for_all(core: Core) -> None:
    """A connection that leaks with transaction and cursor is one report."""
    leaves_all(core)
    core.pass_time(3 * OVERDUE)

    assert [(leak.short, leak.kind) for leak in core.reports] == [("leaves_all", Kind.CONNECTION)]
