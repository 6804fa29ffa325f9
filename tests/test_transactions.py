"""The holds of transactions: when they begin, how they end, and which of them are reported."""

import gc
import sys
from collections.abc import Iterator

import pytest

from otel_connleak.connection import Kind, Transaction
from otel_connleak.failures import exception_in_flight
from otel_connleak.hold import Ending, Evidence, Hold
from otel_connleak.nested import TransactionHold
from tests.leaking import kept
from tests.support import toy
from tests.support.core import Core
from tests.support.toy import SOURCE, Connection, ToyPool

GRACE, OVERDUE = 5.0, 30.0
NONE, OPEN, ABORTED = Transaction.NONE, Transaction.OPEN, Transaction.ABORTED
INSERT, SELECT = "INSERT INTO orders VALUES (1)", "SELECT 1 FROM orders"


class ServerError(Exception):
    """An error as asyncpg and psycopg raise it for what the server refuses."""

    sqlstate = "23505"


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    """Let go what a test has kept."""
    yield
    kept.clear()
    toy.forget()


@pytest.fixture
def core() -> Iterator[Core]:
    """A core that watches exits."""
    core = Core()
    with core.watching_exits():
        yield core


def inner(pool: ToyPool, connection: Connection) -> TransactionHold:
    """The open transaction of a connection."""
    found = pool.hold_of(connection).inner
    assert isinstance(found, TransactionHold)
    return found


def insert(pool: ToyPool, connection: Connection, status: Transaction = OPEN) -> None:
    """A function of a repository that leaves the commit to its caller."""
    pool.execute(connection, INSERT, status)


# --- begin and end -----------------------------------------------------------------------------------------


def test_begins_with_the_statement(core: Core) -> None:
    """A transaction begins when the driver leaves idle, at the start of that call, and counts it."""
    connection = core.pool.getconn()
    core.clock.now += 2.0
    insert(core.pool, connection)
    core.pool.execute(connection, SELECT, OPEN)
    transaction = inner(core.pool, connection)

    assert (transaction.site.short, transaction.acquired) == ("insert", core.clock())
    assert (transaction.calls, transaction.writes, transaction.kind) == (2, 1, Kind.TRANSACTION)
    core.pool.execute(connection, "COMMIT", NONE)
    assert (transaction.ending, transaction.is_open) == (Ending.COMMITTED, False)
    core.pool.execute(connection, SELECT, OPEN)
    assert transaction.calls == 3, "what is called afterwards is not its own"
    core.pool.execute(connection, "ROLLBACK", NONE)
    core.pool.putconn(connection)
    assert core.reported == []


@pytest.mark.parametrize(
    ("calls", "ending"),
    [
        ([(INSERT, OPEN, None), ("COMMIT", NONE, None)], Ending.COMMITTED),
        ([(INSERT, OPEN, None), ("rollback", NONE, None)], Ending.ROLLED_BACK),
        ([(INSERT, OPEN, None), ("COMMIT", NONE, ServerError())], Ending.ROLLED_BACK),
        ([(INSERT, ABORTED, ServerError()), ("COMMIT", NONE, None)], Ending.ROLLED_BACK),
        (
            [(INSERT, OPEN, None), (SELECT, ABORTED, ServerError()), ("COMMIT", NONE, None)],
            Ending.ROLLED_BACK,
        ),
        (
            [
                ("SAVEPOINT a", OPEN, None),
                (INSERT, ABORTED, ServerError()),
                ("ROLLBACK TO a", OPEN, None),
                ("COMMIT", NONE, None),
            ],
            Ending.COMMITTED,
        ),
        ([(INSERT, OPEN, None), ("CREATE TABLE a (b int)", NONE, None)], Ending.COMMITTED),
        ([(INSERT, OPEN, None), ("COMMIT", OPEN, None)], Ending.COMMITTED),
        ([(INSERT, OPEN, None), ("PREPARE TRANSACTION 'a'", NONE, None)], Ending.OPEN),
        (
            [
                ("SAVEPOINT a", OPEN, None),
                (INSERT, OPEN, None),
                ("ROLLBACK TO a", OPEN, None),
                ("RELEASE a", OPEN, None),
            ],
            Ending.ROLLED_BACK,
        ),
        (
            [(INSERT, Transaction.ACTIVE, None), (SELECT, NONE, None), (SELECT, OPEN, None)],
            Ending.ROLLED_BACK,
        ),
        (
            [
                (INSERT, OPEN, None),
                ("PREPARE TRANSACTION 'a'", NONE, None),
                (SELECT, NONE, None),
                ("COMMIT PREPARED 'a'", NONE, None),
            ],
            Ending.COMMITTED,
        ),
        (
            [
                (INSERT, OPEN, None),
                ("PREPARE TRANSACTION 'a'", NONE, None),
                ("ROLLBACK PREPARED 'a'", NONE, None),
            ],
            Ending.ROLLED_BACK,
        ),
        ([(INSERT, OPEN, None), (SELECT, Transaction.UNKNOWN, OSError())], Ending.ROLLED_BACK),
        ([(SELECT, OPEN, None)], Ending.ROLLED_BACK),
        ([(INSERT, NONE, None)], Ending.NONE),
        ([("COMMIT", OPEN, None)], Ending.NONE),
    ],
)
def test_ending(
    core: Core, calls: list[tuple[str, Transaction, BaseException | None]], ending: Ending
) -> None:
    """How the last transaction of a hold ended is what the driver's calls and its status say of it."""
    connection = core.pool.getconn()
    hold = core.pool.hold_of(connection)
    for call in calls:
        core.pool.execute(connection, *call)
    core.pool.putconn(connection)

    assert hold.ending is ending
    assert core.registry.holds() == []
    core.after(0.0)
    assert core.reported == []


def test_begins_again_at_once(core: Core) -> None:
    """Where a driver is in a transaction again after each commit, the next hold begins with a statement."""
    connection = core.pool.getconn()
    insert(core.pool, connection)
    first = inner(core.pool, connection)
    core.pool.execute(connection, "COMMIT", OPEN)
    assert core.pool.hold_of(connection).inner is None
    core.pool.execute(connection, SELECT, OPEN)

    assert inner(core.pool, connection) is not first
    assert not inner(core.pool, connection).writes


@pytest.mark.parametrize("status", [Transaction.ACTIVE, Transaction.UNKNOWN])
def test_status_that_says_nothing(core: Core, status: Transaction) -> None:
    """While rows are streamed, or where a driver does not tell, nothing begins and nothing ends."""
    connection = core.pool.getconn()
    core.pool.execute(connection, SELECT, status)
    assert core.pool.hold_of(connection).inner is None
    insert(core.pool, connection)
    core.pool.execute(connection, SELECT, status)

    assert inner(core.pool, connection).is_open


def test_counts_are_by_kind(core: Core) -> None:
    """A transaction is counted for the function that began it, and takes no connection of the pool."""
    connection = core.pool.getconn()
    insert(core.pool, connection)

    assert core.pool.record is not None
    assert core.pool.record.open == 1
    counted = {
        (each.function.rpartition(".")[2], each.kind): each.open for each in core.registry.totals.all()
    }
    assert counted == {("test_counts_are_by_kind", Kind.CONNECTION): 1, ("insert", Kind.TRANSACTION): 1}
    core.pool.putconn(connection)
    assert [each.open for each in core.registry.totals.all()] == [0, 0]
    assert core.pool.record.open == 0


# --- discarded ---------------------------------------------------------------------------------------------


def forget_commit(pool: ToyPool, statement: str = INSERT, status: Transaction = OPEN) -> None:
    """Give back what was written and never committed."""
    connection = pool.getconn()
    pool.execute(connection, statement, status)
    pool.putconn(connection)


def test_discarded(core: Core) -> None:
    """Writes that are given back without commit are reported at once, as a fact, and nothing is open."""
    forget_commit(core.pool)
    core.after(0.0)

    assert core.reported == [("forget_commit", "discarded")]
    leak = core.reports[0]
    assert (leak.certainty, leak.kind, leak.writes) == ("confirmed", Kind.TRANSACTION, 1)
    assert core.leaks.unreleased().total() == 0
    assert core.recovered == []
    totals = {each.kind: each.leaked for each in core.registry.totals.all()}
    assert totals == {Kind.CONNECTION: 0, Kind.TRANSACTION: 1}


@pytest.mark.parametrize(
    ("statement", "status"),
    [(SELECT, OPEN), (INSERT, ABORTED), ("SELECT 1 FOR UPDATE", OPEN), (INSERT, NONE)],
)
def test_nothing_to_discard(core: Core, statement: str, status: Transaction) -> None:
    """What has only read, was aborted by the server, or is not open, loses nothing with its connection."""
    forget_commit(core.pool, statement, status)
    core.after(GRACE)

    assert core.reported == []


@pytest.mark.parametrize(
    "calls",
    [
        [("SAVEPOINT a", OPEN), (INSERT, OPEN), ("RELEASE a", OPEN)],
        [(INSERT, OPEN), ("SAVEPOINT a", OPEN), (INSERT, OPEN), ("ROLLBACK TO a", OPEN)],
        [(INSERT, Transaction.ACTIVE), (SELECT, OPEN)],
        [(SELECT, OPEN), (INSERT, Transaction.ACTIVE), (SELECT, OPEN)],
    ],
)
def test_what_was_written(core: Core, calls: list[tuple[str, Transaction]]) -> None:
    """Savepoints take back only what came after them; a call that is not over when it returns counts too."""
    connection = core.pool.getconn()
    for call in calls:
        core.pool.execute(connection, *call)
    core.pool.putconn(connection)
    core.after(0.0)

    assert [leak.writes for leak in core.reports] == [1]


@pytest.mark.parametrize("setting", [{"evidence": "dropped"}, {"ignore": "*.forget_commit"}])
def test_discarded_is_not_wanted(setting: dict[str, str]) -> None:
    """Who does not want to be told is not told."""
    core = Core(**setting)
    forget_commit(core.pool)
    core.after(0.0)

    assert core.reported == []


def test_exception_in_flight(core: Core) -> None:
    """A rollback because of an exception is no report."""

    def fail() -> None:
        connection = core.pool.getconn()
        try:
            insert(core.pool, connection)
            raise KeyError
        finally:
            core.pool.putconn(connection)

    with pytest.raises(KeyError):
        fail()
    core.after(0.0)
    assert core.reported == []


def test_exception_of_somebody_else(core: Core) -> None:
    """An exception that was being handled before the transaction began is not the reason for its end."""
    try:
        raise KeyError
    except KeyError:
        assert sys.exception() is not None
        forget_commit(core.pool)
    core.after(0.0)

    assert core.reported == [("forget_commit", "discarded")]


def test_exception_in_another_task(core: Core) -> None:
    """Where the release runs in another task or greenlet, a context variable tells of the exception."""
    token = exception_in_flight.set(1)
    try:
        forget_commit(core.pool)
    finally:
        exception_in_flight.reset(token)
    core.after(0.0)

    assert core.reported == []


def test_rolled_back_in_order_to_release(core: Core) -> None:
    """A library that rolls back by itself, because the connection is about to be released, discards too."""
    connection = core.pool.getconn()
    insert(core.pool, connection)
    core.registry.transactions.leaving(core.pool.hold_of(connection), connection)
    core.pool.execute(connection, "ROLLBACK", NONE)
    core.pool.putconn(connection)
    core.after(0.0)

    assert core.reported == [("insert", "discarded")]


def test_refused_release(core: Core) -> None:
    """A pool that refuses a connection leaves its transaction open, which may still be committed."""
    connection = core.pool.getconn()
    insert(core.pool, connection)
    transaction = inner(core.pool, connection)
    hold = core.registry.release(SOURCE, connection)
    assert hold is not None
    core.registry.reinstate(hold)

    assert transaction.is_open
    core.pool.execute(connection, "COMMIT", NONE)
    core.pool.putconn(connection)
    core.after(0.0)
    assert core.reported == []


@pytest.mark.parametrize(("statement", "reported"), [(INSERT, [("insert", "discarded")]), (SELECT, [])])
def test_closed_past_its_pool(core: Core, statement: str, reported: list[tuple[str, str]]) -> None:
    """Who closes a connection that a pool waits for ends its transaction, and still holds the pool's slot."""
    connection = core.pool.getconn()
    insert(core.pool, connection) if statement == INSERT else core.pool.execute(connection, SELECT, OPEN)
    transaction = inner(core.pool, connection)
    assert core.registry.release("driver", connection) is None

    assert not transaction.is_open
    assert core.pool.hold_of(connection).is_open
    core.after(0.0)
    assert core.reported == reported
    core.pool.putconn(connection)


def test_closed_without_a_pool(core: Core) -> None:
    """Where no pool waits for a connection, who closes it has ended its hold, whoever opened that."""
    pool = ToyPool(core.registry, name=None)
    connection = pool.getconn()
    insert(pool, connection)
    hold = core.registry.release("driver", connection)
    assert hold is not None
    core.registry.released(hold)

    assert core.registry.holds() == []
    core.after(0.0)
    assert core.reported == [("insert", "discarded")]


# --- left open ---------------------------------------------------------------------------------------------


def test_commit_is_left_to_the_caller(core: Core) -> None:
    """While the function lives that has the connection, an exit further down proves nothing."""
    connection = core.pool.getconn()
    insert(core.pool, connection)
    core.pass_time(2 * GRACE)
    assert core.reported == []
    core.pool.execute(connection, "COMMIT", NONE)
    core.pool.putconn(connection)


def test_idle_in_transaction(core: Core) -> None:
    """One that is idle for too long is reported although the connection's function lives, with both facts."""
    core.registry.expect_long = lambda: True
    connection = core.pool.getconn()
    core.registry.expect_long = bool
    insert(core.pool, connection)
    core.pass_time(OVERDUE + 1)

    assert [(leak.short, leak.kind) for leak in core.reports] == [("insert", Kind.TRANSACTION)]
    assert core.reports[0].evidence == (Evidence.FUNCTION_EXITED, Evidence.OVERDUE)
    core.pool.execute(connection, "COMMIT", NONE)
    assert [leak.id for leak in core.recovered] == [core.reports[0].id]


def forgets_both(pool: ToyPool) -> None:
    """Neither commit nor release."""
    connection = pool.getconn()
    toy.park(connection)
    insert(pool, connection)


def test_one_report_for_both(core: Core) -> None:
    """A connection that leaks with its transaction is one report, which tells of the writes."""
    forgets_both(core.pool)
    core.pass_time(2 * OVERDUE)

    assert [(leak.short, leak.kind, leak.writes) for leak in core.reports] == [
        ("forgets_both", Kind.CONNECTION, 1)
    ]


def keeps(pool: ToyPool) -> None:
    """The connection of a module, which lives as long as the process."""
    kept.append(pool.getconn())


def uses_kept(pool: ToyPool, statement: str) -> None:
    """A function of that module."""
    connection = kept[-1]
    assert isinstance(connection, Connection)
    pool.execute(connection, statement, OPEN)


def test_on_the_connection_of_a_module(core: Core) -> None:
    """Another function of a module may commit what one has begun: it is no leak until it has lain idle."""
    keeps(core.pool)
    uses_kept(core.pool, INSERT)
    core.pass_time(2 * GRACE)
    assert core.reported == []
    core.pass_time(OVERDUE)

    assert [(leak.short, leak.kind) for leak in core.reports] == [("uses_kept", Kind.TRANSACTION)]


@pytest.mark.parametrize(("statement", "reported"), [(INSERT, ["uses_kept"]), (SELECT, [])])
def test_process_exits(core: Core, statement: str, reported: list[str]) -> None:
    """Writes on a module's connection that were never committed are lost with the process."""
    keeps(core.pool)
    uses_kept(core.pool, statement)
    spared = core.leaks.at_exit()

    assert [leak.short for leak in core.reports] == reported
    assert [hold.site.short for hold in spared] == ["keeps"]


def test_request_is_over(core: Core) -> None:
    """A transaction whose request has ended is reported after the grace, also on a module's connection."""
    keeps(core.pool)
    uses_kept(core.pool, INSERT)
    hold = next(hold for hold in core.registry.holds() if hold.kind is Kind.TRANSACTION)
    core.note(hold, Evidence.TRACE_ENDED)
    core.pass_time(GRACE + 1)

    assert [leak.short for leak in core.reports] == ["uses_kept"]


def opens(pool: ToyPool) -> Connection:
    """Acquire, prepare, and return it."""
    connection = pool.getconn()
    pool.execute(connection, INSERT, OPEN)
    return connection


def uses_opened(pool: ToyPool) -> None:
    """Commit nothing."""
    connection = opens(pool)
    toy.park(connection)


def test_blame_goes_with_the_connection(core: Core) -> None:
    """Who returns the connection hands on its transaction as well."""
    connection = opens(core.pool)
    assert inner(core.pool, connection).site.short == "test_blame_goes_with_the_connection"
    core.pool.putconn(connection)
    core.after(0.0)
    assert core.reported == [("test_blame_goes_with_the_connection", "discarded")]


def test_dropped_with_its_connection(core: Core) -> None:
    """A connection that is collected ends its transaction: one report, of the connection."""
    connection = core.pool.getconn()
    insert(core.pool, connection)
    transaction = inner(core.pool, connection)
    del connection
    gc.collect()
    core.after(0.1)

    assert [(leak.kind, leak.writes) for leak in core.reports] == [(Kind.CONNECTION, 1)]
    assert not transaction.is_open


def test_finalizer_of_a_cycle(core: Core, caplog: pytest.LogCaptureFixture) -> None:
    """A suspended generator that is collected with its connection may still use it: nothing of ours fails."""

    def writes() -> Iterator[None]:
        connection = core.pool.getconn()
        try:
            yield
        finally:
            insert(core.pool, connection)
            core.pool.execute(connection, "COMMIT", NONE)
            core.pool.putconn(connection)

    cycle: list[object] = []
    suspended = writes()
    next(suspended)
    cycle += [cycle, suspended]
    del cycle, suspended
    gc.collect()
    core.after(0.1)

    assert (core.reported, core.registry.holds(), caplog.messages) == ([], [], [])


def test_expected_and_never_begun(core: Core) -> None:
    """A transaction in which nothing was called yet is no leak: the server knows nothing of it."""

    def begins() -> Hold:
        connection = core.pool.getconn()
        toy.park(connection)
        hold = core.pool.hold_of(connection)
        core.registry.transactions.begin(hold, core.clock())
        hold.long_lived = True
        return hold

    hold = begins()
    core.note(hold.inner, Evidence.FUNCTION_EXITED)
    core.leaks.note(hold.inner, Evidence.TRACE_ENDED, core.clock())
    hold.leak = object()  # so that the connection itself says nothing here
    core.pass_time(3 * OVERDUE)
    assert core.reported == []
