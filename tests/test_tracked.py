"""What is held in another way: taken back by its library, kept by a framework by design, no connection."""

import sys
from collections.abc import Iterator

import pytest

from otel_connleak.connection import Facts, Kind, Pool, Transaction
from otel_connleak.hold import Certainty, Evidence, Hold, Outcome
from otel_connleak.pools import Pools
from tests.support import toy
from tests.support.core import Core
from tests.support.toy import Connection

GRACE = 5.0


@pytest.fixture
def core() -> Iterator[Core]:
    """The core with default settings."""
    yield Core()
    toy.forget()


def drop_and_reclaim(core: Core) -> Hold:
    """Acquire, and forget it; the library notices, and gives the connection to the next one."""
    connection = core.pool.getconn()
    connection.transaction = Transaction.OPEN
    hold = core.pool.hold_of(connection)
    core.registry.reclaim(hold)
    connection.transaction = Transaction.NONE
    toy.park(connection)
    return hold


def begin(core: Core, *, by_design: bool = False) -> Hold:
    """Begin a transaction that is ended by an object that nobody reaches; the framework keeps it, or not."""
    registry, block = core.registry, Connection()
    toy.park(block)
    return registry.acquire(
        "toy", block, sys._getframe(0),
        lambda it: registry.track(
            it, toy.FACTS, lambda _: Transaction.OPEN, None, kind=Kind.TRANSACTION, by_design=by_design
        ),
    )  # fmt: skip


def test_reclaimed(core: Core) -> None:
    """What was dropped and taken back is a confirmed leak of its time; no slot stays lost, none recovers."""
    hold = drop_and_reclaim(core)
    core.after(0.0)
    (leak,) = core.reports

    assert (leak.short, leak.evidence) == ("drop_and_reclaim", (Evidence.DROPPED,))
    assert (leak.certainty, leak.transaction) == (Certainty.CONFIRMED, Transaction.OPEN)
    assert hold.outcome is Outcome.LOST
    assert core.leaks.unreleased().total() == 0
    assert core.pool.record is not None
    assert core.pool.record.snapshot().used == 0
    assert (core.registry.holds(), core.recovered) == ([], [])


def test_reclaimed_after_the_report(core: Core) -> None:
    """A claim that is followed by the drop stays one leak, and nothing is unreleased any more."""
    connection = core.pool.getconn()
    hold = core.pool.hold_of(connection)
    toy.park(connection)
    del connection
    core.note(hold, Evidence.THREAD_ENDED)
    core.after(GRACE)
    assert core.leaks.unreleased().total() == 1
    core.registry.reclaim(hold)
    core.after(0.0)

    assert len(core.reports) == 1
    assert core.leaks.unreleased().total() == 0
    assert core.recovered == []


def test_reclaimed_while_judged(core: Core) -> None:
    """What its library takes back in the midst of a search is one report, not its transaction's as well."""
    connection = core.pool.getconn()
    hold = core.pool.hold_of(connection)
    core.pool.execute(connection, "SELECT 1", Transaction.OPEN)
    core.note(hold, Evidence.THREAD_ENDED)
    core.note(hold.inner, Evidence.THREAD_ENDED)
    core.leaks.look = lambda each: core.registry.reclaim(hold) if each is hold and hold.is_open else None
    core.after(GRACE)
    core.after(0.0)

    assert [leak.kind for leak in core.reports] == [Kind.CONNECTION]
    assert (core.registry.holds(), core.recovered) == ([], [])


def test_reclaimed_and_ignored() -> None:
    """Also what is not reported is over."""
    core = Core(ignore="*.drop_and_reclaim")
    hold = drop_and_reclaim(core)
    core.after(0.0)

    assert (core.reports, core.registry.holds()) == ([], [])
    assert hold.outcome is Outcome.LOST


def test_one_record_of_a_pool() -> None:
    """Two threads that see a pool for the first time at the same moment get the same record of it."""
    library = Connection()

    def make(_reference: object, facts: Facts) -> Pool:
        if not seen:
            seen.append(library)
            seen.append(pools.of(library, facts))  # the other thread, which is faster
        return Pool("orders", lambda: (None, None))

    seen: list[object] = []
    pools = Pools(make)

    assert pools.of(library, toy.FACTS) is seen[1]
    assert pools.of(library, toy.FACTS) is seen[1]


def test_kept_by_design(core: Core) -> None:
    """Only the end of its thread speaks against what a framework keeps for the thread."""
    hold = begin(core, by_design=True)
    core.note(hold, Evidence.FUNCTION_EXITED, Evidence.TRACE_ENDED, Evidence.TASK_ENDED, Evidence.OVERDUE)
    core.after(GRACE)
    assert core.reports == []
    assert core.leaks.at_exit() == [hold]
    core.note(hold, Evidence.THREAD_ENDED)
    core.after(GRACE)
    assert core.reported == [("begin", "thread_ended")]


def test_transaction(core: Core) -> None:
    """A transaction is held and reported like a connection, under its own name and apart from connections."""
    hold = begin(core)
    core.note(hold, Evidence.FUNCTION_EXITED)
    core.after(GRACE)
    (leak,) = core.reports

    assert (leak.kind, leak.short) == (Kind.TRANSACTION, "begin")
    assert core.leaks.unreleased() == {("tests.test_tracked.begin", None, Kind.TRANSACTION): 1}
    assert hold.site.totals.keys() == {(None, Kind.TRANSACTION)}
    assert hold.totals.open == 1
