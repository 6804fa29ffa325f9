"""What the random histories of `tests.test_properties` have found, each as short as it can be told."""

from collections.abc import Callable, Iterator

import pytest

from otel_connleak.hold import Evidence
from tests.leaking import drop, keep, kept
from tests.support import toy
from tests.support.core import Core
from tests.support.toy import Connection, ToyPool

GRACE = 5.0
OVERDUE = 30.0


@pytest.fixture
def core() -> Iterator[Core]:
    """The core with `sys.monitoring` switched on."""
    core = Core()
    with core.watching_exits():
        yield core
    toy.forget()
    kept.clear()


def handle(pool: ToyPool, wait: Callable[[], None] | None) -> None:
    """Leak if there is nothing to wait for; else wait, inside of a loop, and release."""
    connection = pool.getconn()
    if wait is None:
        toy.park(connection)
        return
    for _ in range(1):
        wait()
    pool.putconn(connection)


def test_the_same_function_runs_again(core: Core) -> None:
    """Its new activation has the frame identity of the one that leaked, and is not the owner."""

    def serve(wait: Callable[[], None]) -> None:
        handle(core.pool, None)
        handle(core.pool, wait)

    with toy.in_other_thread(serve):
        core.after(GRACE)
        assert core.reported == [("handle", "function_exited")]


def test_taken_out_of_a_module_and_lost(core: Core) -> None:
    """A pool of the application's own: what is taken out of it and lost is a leak."""
    keep(core.pool)
    core.pass_time(OVERDUE)
    assert core.reports == []
    toy.park(kept.pop())
    core.pass_time(16 * GRACE + OVERDUE)
    assert [leak.short for leak in core.reports] == ["keep"]


def test_recovery_counts_where_the_leak_does(core: Core) -> None:
    """A hold that is reported, then returned and released by the caller, is one leak of one function."""

    def takes_its_time() -> Connection:
        connection = core.pool.getconn()
        core.after(OVERDUE)
        return connection

    def releases() -> None:
        core.pool.putconn(takes_its_time())

    releases()
    (leak,) = core.reports
    assert [recovered.id for recovered in core.recovered] == [leak.id]
    assert {(totals.function, totals.leaked, totals.recovered) for totals in core.registry.totals.all()} >= {
        (leak.function, 1, 1)
    }


@pytest.mark.parametrize("acquire", [keep, drop])
def test_pool_figures_in_a_child(core: Core, acquire: Callable[[ToyPool], object]) -> None:
    """A forked child has inherited no hold, and lost none, so it counts none."""
    acquire(core.pool)
    core.after(0.0)
    core.after_fork()
    assert core.registry.holds() == []
    assert core.pool.record is not None
    assert core.pool.record.snapshot().used == 0


def test_taken_out_of_a_module_and_used(core: Core) -> None:
    """What lay idle in a module for long is not overdue when it is in use again."""
    hold = keep(core.pool)
    core.pass_time(OVERDUE)

    def uses(wait: Callable[[], None]) -> None:
        connection = kept.pop()
        wait()
        kept.append(connection)

    with toy.in_other_thread(uses):
        core.registry.called(hold, core.clock())
        core.pass_time(OVERDUE - 1)
    assert core.reports == []


def test_a_new_connection_with_the_identity_of_a_dropped_one(core: Core) -> None:
    """Returning the new one hands nothing of the dropped one to the caller, who is not to blame for that."""

    def takes_another() -> Connection:
        dropped = id(core.pool.getconn())
        connection = core.pool.getconn()
        return connection if id(connection) == dropped else takes_another()

    def caller() -> None:
        core.pool.putconn(takes_another())

    caller()
    core.after(0.0)
    assert {leak.short.rpartition(".")[2] for leak in core.reports} == {"takes_another"}


def test_second_fact_has_its_own_deadline(core: Core) -> None:
    """Noted at 0 s and at 4 s; somebody could release until 5.5 s; so it is a leak at 9 s, not at 10 s."""
    connection = core.pool.getconn()
    hold = core.pool.hold_of(connection)
    core.note(hold, Evidence.TRACE_ENDED)
    core.pass_time(4.0)
    core.note(hold, Evidence.THREAD_ENDED)
    core.pass_time(1.5)
    assert core.reports == []
    toy.park(connection)
    del connection
    core.pass_time(3.5)
    assert len(core.reports) == 1
