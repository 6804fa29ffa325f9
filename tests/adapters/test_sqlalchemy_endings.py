"""What ends a hold of SQLAlchemy other than a plain release, and what only looks like an end of it."""

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import sqlalchemy
from psycopg_pool import ConnectionPool
from sqlalchemy import event, exc, pool

from otel_connleak import open_holds
from tests.adapters.conftest import Instrument
from tests.adapters.shop.engines import ONE, drop, end_session, keep, use
from tests.adapters.test_sqlalchemy import engine_for
from tests.support.reports import Reports

type MakeEngine = Callable[..., sqlalchemy.Engine]
"""Makes an engine with options."""


@pytest.fixture
def make_engine(dsn: str) -> Iterator[MakeEngine]:
    """A function that makes engines, which are disposed of at the end."""
    with ExitStack() as stack:

        def make(**options: Any) -> sqlalchemy.Engine:
            engine = engine_for(dsn, **options)
            stack.callback(engine.dispose)
            return engine

        yield make
        gc.collect()  # what is in a cycle goes back to its pool, and is closed with it


def test_disposed_while_held(make_engine: MakeEngine, reports: Reports) -> None:
    """A connection that was out when its pool was disposed of goes on, and ends with its release."""
    engine = make_engine()
    connection = engine.connect()
    disposed = engine.pool
    engine.dispose()

    assert len(open_holds()) == 1
    connection.close()
    disposed.dispose()
    assert reports.hold_names() == ["test_disposed_while_held"]
    reports.none()


def test_detached(make_engine: MakeEngine, reports: Reports) -> None:
    """A connection that was detached from its pool is held until it is closed, and takes no slot."""
    engine = make_engine(pool_size=1, max_overflow=0, pool_logging_name="orders")
    connection = engine.connect()
    connection.detach()
    (hold,) = open_holds()
    assert hold.pool is None
    use(engine)  # the slot is free
    reports.none()
    connection.close()

    assert reports.hold_names() == ["use", "test_detached"]
    reports.none()


def test_detached_and_dropped(make_engine: MakeEngine, reports: Reports) -> None:
    """A detached connection that was dropped is a leak; its pool has lost nothing."""
    engine = make_engine(pool_logging_name="orders")

    def detach() -> None:
        engine.connect().detach()

    with pytest.warns(ResourceWarning, match="was deleted while still open"):
        detach()
    leak = reports.leak()

    assert leak.certainty == "confirmed"
    assert "db.client.connection.pool.name" not in leak.attributes
    assert reports.telemetry.value("connleak.leaks.open") == 0


def test_invalidated(make_engine: MakeEngine, reports: Reports) -> None:
    """With an invalidated connection the hold is over; the next statement acquires another one."""
    engine = make_engine()
    with engine.connect() as connection:
        connection.invalidate()
        assert open_holds() == []
        reports.none()
        connection.rollback()
        connection.execute(ONE)
        assert [hold.resource for hold in open_holds()] == ["connection", "transaction"]

    assert reports.hold_names() == ["test_invalidated"] * 2
    reports.none()


def test_softly_invalidated(make_engine: MakeEngine, reports: Reports) -> None:
    """A connection that is to be replaced after its release is held until then."""
    engine = make_engine()
    connection = engine.raw_connection()
    connection.invalidate(soft=True)
    assert len(open_holds()) == 1
    connection.close()

    assert open_holds() == []
    use(engine)
    assert reports.hold_names() == ["test_softly_invalidated", "use"]
    reports.none()


def test_lost_by_the_server(make_engine: MakeEngine, reports: Reports) -> None:
    """A connection that the server has ended is invalidated by SQLAlchemy, and held no more."""
    engine = make_engine()
    other = make_engine(pool_logging_name="other")
    with engine.connect() as connection:
        end_session(other, connection)
        with pytest.raises(exc.OperationalError):
            connection.execute(ONE)
        assert open_holds() == []

    reports.none()


def test_ping_before_a_checkout(make_engine: MakeEngine, reports: Reports) -> None:
    """A connection that turns out to be broken when it is to be given out is replaced: that is one hold."""
    engine = make_engine(pool_pre_ping=True)
    with engine.connect() as connection:
        end_session(make_engine(), connection)
    reports.telemetry.clear()

    assert use(engine) == 1
    assert reports.hold_names() == ["use"]
    reports.none()


def test_exchanged_at_the_checkout(make_engine: MakeEngine, reports: Reports) -> None:
    """A listener of the application may have a connection replaced: that is one hold."""
    engine = make_engine()
    refused: list[Any] = []

    @event.listens_for(engine, "checkout")
    def refuse(dbapi_connection: Any, _record: Any, _proxy: Any) -> None:
        if not refused:
            refused.append(dbapi_connection)
            raise exc.DisconnectionError

    assert use(engine) == 1
    assert reports.hold_names() == ["use"]
    reports.none()


def test_refused_at_the_checkout(make_engine: MakeEngine, reports: Reports) -> None:
    """An error of the application's listener passes through, and opens no hold."""
    engine = make_engine()

    @event.listens_for(engine, "checkout")
    def refuse(*_about: Any) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        use(engine)
    assert open_holds() == []
    assert reports.hold_names() == []


def test_listener_that_fails_at_the_reset(make_engine: MakeEngine, reports: Reports) -> None:
    """A listener of the application's that fails while a connection is given back changes nothing for us."""
    engine = make_engine()

    @event.listens_for(engine, "reset")
    def fail(*_about: Any) -> None:
        raise LookupError

    use(engine)
    drop(engine)
    assert (reports.leak().function, reports.leak().certainty) == ("engines.drop", "confirmed")
    assert reports.hold_names() == ["use", "drop"]


def test_listener_that_fails_at_the_invalidation(make_engine: MakeEngine, reports: Reports) -> None:
    """Whatever way a connection comes back to the pool, it is held no more."""
    engine = make_engine()

    @event.listens_for(engine, "invalidate")
    def fail(*_about: Any) -> None:
        raise LookupError

    connection = engine.connect()
    with pytest.raises(LookupError):
        connection.invalidate()
    assert open_holds() == []
    reports.none()


@pytest.mark.parametrize("also_uncounted", [False, True])
def test_calls_are_counted_once(
    also_uncounted: bool, make_engine: MakeEngine, instrument: Instrument
) -> None:
    """A driver that tells of its calls is not counted twice, whatever other drivers are in use."""
    other = sqlalchemy.create_engine("sqlite://")
    use(other)
    instrument()
    if also_uncounted:
        use(other)
    with make_engine(isolation_level="AUTOCOMMIT").connect() as connection:
        before = open_holds()[0].statements
        connection.execute(ONE)
        assert open_holds()[0].statements - before == 1
    other.dispose()


@pytest.mark.parametrize("style", ["rollback", "commit", None])
def test_reset_on_return(style: Any, make_engine: MakeEngine, reports: Reports) -> None:
    """Whatever the pool does with what comes back, it has come back."""
    engine = make_engine(pool_reset_on_return=style)
    raw = engine.raw_connection()
    raw.cursor().execute("SELECT 1")
    raw.close()

    assert reports.hold_names() == ["test_reset_on_return"]
    reports.none()


def test_exhausted(make_engine: MakeEngine, reports: Reports) -> None:
    """Where the pool has nothing left to give, its error passes through, and there is no hold more."""
    engine = make_engine(pool_size=1, max_overflow=0, pool_timeout=0)
    with engine.connect(), pytest.raises(exc.TimeoutError):
        use(engine)

    assert reports.hold_names() == ["test_exhausted"]


@pytest.mark.parametrize(
    ("options", "figures"),
    [
        ({"pool_size": 2, "max_overflow": 3}, "1/5 used"),
        ({"pool_size": 2, "max_overflow": -1}, "1 used"),
        ({"poolclass": pool.NullPool}, "1 used"),
        ({"poolclass": pool.StaticPool}, "1 used"),
    ],
)
def test_name_and_figures(
    options: dict[str, Any],
    figures: str,
    make_engine: MakeEngine,
    reports: Reports,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A pool without a name of its own is called by server and database; where it has a size, it is told."""
    keep(make_engine(**options))
    attributes = reports.leak().attributes
    name = f"{attributes['server.address']}/{attributes['db.namespace']}"

    assert attributes["db.client.connection.pool.name"] == name
    assert f'pool "{name}" {figures}' in caplog.text


def test_creator_from_another_pool(make_engine: MakeEngine, dsn: str, reports: Reports) -> None:
    """What the pool of SQLAlchemy takes from another pool below is one hold, that of SQLAlchemy."""
    with ConnectionPool(dsn, min_size=1, max_size=2, open=True, name="below", close_returns=True) as below:
        engine = make_engine(creator=below.getconn, pool_logging_name="above")
        with engine.connect() as connection:
            connection.execute(ONE)
            assert [(hold.resource, hold.pool) for hold in open_holds()] == [
                ("connection", "above"),
                ("transaction", "above"),
            ]
        engine.dispose()

    assert reports.hold_names() == ["test_creator_from_another_pool"]
    reports.none()
