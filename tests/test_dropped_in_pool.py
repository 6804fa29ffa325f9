"""``dropped`` where the pool itself refers to what it has handed out: nobody else refers to it any more."""

import gc
import sys
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from psycopg2.pool import ThreadedConnectionPool

from otel_connleak import engine, references
from otel_connleak.hold import Evidence, Outcome
from tests.support import toy
from tests.support.core import Core
from tests.support.telemetry import Telemetry
from tests.support.toy import Connection, KeepingPool

SETTLE = 0.01
GRACE = 5.0


@pytest.fixture
def core() -> Iterator[Core]:
    """The core, with exits watched and a pool that keeps what it hands out."""
    core = Core(overdue_after=1_000)
    with core.watching_exits():
        yield core
    toy.forget()


@pytest.fixture
def pool(core: Core) -> KeepingPool:
    """The pool."""
    return KeepingPool(core.registry)


def drops(pool: KeepingPool) -> None:
    """Acquires, and forgets it."""
    pool.getconn()


def test_reported_at_once(core: Core, pool: KeepingPool) -> None:
    """A moment after the function's exit, long before the grace, and confirmed: only the pool has it."""
    drops(pool)
    core.after(SETTLE)
    (leak,) = core.reports

    assert leak.evidence == (Evidence.DROPPED, Evidence.FUNCTION_EXITED)
    assert (leak.short, str(leak.certainty)) == ("drops", "confirmed")
    assert leak.hold.outcome is Outcome.LOST
    core.after(100 * GRACE)
    assert len(core.reports) == 1


def test_somebody_refers_to_it(core: Core, pool: KeepingPool) -> None:
    """A reference that nobody can use is one all the same: it is only possible, and after the grace."""

    def parks() -> None:
        toy.park(pool.getconn())

    parks()
    core.after(SETTLE)
    assert core.reports == []
    core.after(GRACE - SETTLE)
    assert [str(leak.certainty) for leak in core.reports] == ["possible"]


def test_dropped_by_the_time_of_the_verdict(core: Core, pool: KeepingPool) -> None:
    """What was let go after the function's exit is confirmed when the claim is due."""

    def parks() -> None:
        toy.park(pool.getconn())

    parks()
    core.after(SETTLE)
    toy.forget()
    core.after(GRACE - SETTLE)
    assert [(leak.evidence[0], str(leak.certainty)) for leak in core.reports] == [
        (Evidence.DROPPED, "confirmed")
    ]


def test_owner_that_still_has_it(core: Core, pool: KeepingPool) -> None:
    """The end of a trace, or of a helper, proves nothing while a function has the connection."""
    connection = pool.getconn()
    core.note(pool.hold_of(connection), Evidence.TRACE_ENDED)
    core.after(SETTLE)
    core.after(10 * GRACE)
    assert core.reports == []
    pool.putconn(connection)
    core.after(10 * GRACE)
    assert core.reports == []


def test_pool_that_has_let_go(core: Core, pool: KeepingPool) -> None:
    """A pool that was closed refers to it no more: then the one reference is the application's."""
    connection = pool.getconn()
    core.note(pool.hold_of(connection), Evidence.TRACE_ENDED)
    pool.used.clear()
    core.after(SETTLE)
    assert core.reports == []
    assert isinstance(connection, Connection)


def test_pool_that_cannot_say(core: Core, pool: KeepingPool, caplog: pytest.LogCaptureFixture) -> None:
    """A mistake in counting is noted once, and leaves the other evidence."""
    del pool.used
    connection = Connection()
    core.registry.acquire("toy", connection, None, pool._track)
    hold = pool.hold_of(connection)
    toy.park(connection)
    del connection
    core.note(hold, Evidence.TRACE_ENDED)
    core.after(SETTLE)
    core.after(GRACE - SETTLE)

    assert [leak.evidence[0] for leak in core.reports] == [Evidence.TRACE_ENDED]
    assert [record.levelname for record in caplog.records] == ["ERROR"]


@pytest.mark.parametrize("others", range(3))
def test_count(others: int) -> None:
    """References are counted without those that counting needs."""
    connection = Connection()
    keep = [connection] * others
    assert references.count(weakref.ref(connection)) == others + 1
    assert len(keep) == others


def test_count_of_what_is_gone() -> None:
    """Nothing is known of an object that was collected."""
    gone = weakref.ref(Connection())
    gc.collect()
    assert references.count(gone) is None


@pytest.mark.parametrize(("enabled", "exact"), [(None, True), (True, True), (False, False)])
def test_free_threading(enabled: bool | None, exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the interpreter lock counts are not exact, and so this is off."""

    def is_enabled() -> Any:
        return enabled

    if enabled is None:
        monkeypatch.delattr(sys, "_is_gil_enabled", raising=False)
    else:
        monkeypatch.setattr(sys, "_is_gil_enabled", is_enabled, raising=False)
    assert references.counts_are_exact() is exact


def test_free_threading_is_said(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """There the reason is said once, and everything else goes on."""
    monkeypatch.setattr(engine, "counts_are_exact", lambda: False)
    caplog.set_level("INFO", "otel_connleak")
    with telemetry.instrumented():
        pass
    (said,) = caplog.messages
    assert said.startswith("evidence dropped is off for connections that their own pool keeps: ")


# --- a real pool -------------------------------------------------------------------------------------------


@pytest.fixture
def real_pool(dsn: str, telemetry: Telemetry) -> Iterator[Any]:
    """A pool of psycopg2's, which refers to what it has handed out; with a grace of ten minutes."""
    pool = ThreadedConnectionPool(1, 4, dsn)
    with telemetry.instrumented(grace=600, overdue_after=600):
        yield pool
    pool.closeall()


def returns_early(pool: Any) -> None:
    """Forgets its connection."""
    connection = pool.getconn()
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM customers")
        if cursor.fetchone() != (0,):
            return
    pool.putconn(connection)


def test_real_pool(real_pool: Any, telemetry: Telemetry) -> None:
    """What psycopg2's pool keeps for ever is reported within 100 ms of the function's exit, and confirmed."""
    dropped = time.time()
    returns_early(real_pool)
    attributes = telemetry.event("connleak.leak").log_record.attributes or {}
    reported = (telemetry.event("connleak.leak").log_record.timestamp or 0) / 1e9

    assert str(attributes["code.function.name"]).endswith("returns_early")
    assert attributes["connleak.evidence"] == ("dropped", "function_exited")
    assert attributes["connleak.certainty"] == "confirmed"
    assert reported - dropped < 0.1
    assert len(real_pool._used) == 1, "the slot is lost"


def test_real_pool_of_correct_functions(real_pool: Any, telemetry: Telemetry) -> None:
    """What is given back, or still in use, or kept by a traceback, is not dropped."""
    errors: list[Exception] = []

    def releases() -> None:
        connection = real_pool.getconn()
        real_pool.putconn(connection)

    def fails() -> None:
        connection = real_pool.getconn()
        connection.cursor().execute("SELECT nonsense")

    def helper() -> Any:
        return real_pool.getconn()

    releases()
    connection = helper()
    with pytest.raises(Exception, match="nonsense") as raised:
        fails()
    errors.append(raised.value)
    assert telemetry.tracer_provider.force_flush()
    assert telemetry.events("connleak.leak") == []
    real_pool.putconn(connection)
