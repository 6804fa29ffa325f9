"""Transactions of SQLAlchemy: what nobody has committed, and whose it was."""

import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy
from opentelemetry.sdk.trace import ReadableSpan

from otel_connleak import open_holds
from tests.adapters.conftest import Instrument
from tests.adapters.shop import alchemy as shop
from tests.support.reports import NEVER, Reports
from tests.support.traced import parameters as traced_parameters
from tests.support.waiting import wait_until

DRIVERS = ["psycopg", "psycopg2", "pg8000", "sqlite", "sqlite without autocommit"]
"""The third has no adapter: only SQLAlchemy tells what it does."""
SERVERS = DRIVERS[:3]
type Work = Callable[..., None]


def engine_for(driver: str, dsn: str, folder: Path) -> sqlalchemy.Engine:
    """An engine on a database with a table of customers."""
    if driver not in SERVERS:
        options = {"autocommit": False} if driver != "sqlite" else {}
        engine = sqlalchemy.create_engine(f"sqlite:///{folder}/shop.db", connect_args=options)
        shop.Base.metadata.create_all(engine)
        return engine
    parameters: dict[str, Any] = psycopg.conninfo.conninfo_to_dict(dsn)
    if driver == "pg8000":
        path = parameters["options"].removeprefix("-c search_path=")
        parameters = traced_parameters(dsn) | {"startup_params": {"search_path": path}}
    return sqlalchemy.create_engine(f"postgresql+{driver}://", connect_args=parameters)


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    """The driver of the engine."""
    return str(request.param)


@pytest.fixture
def engine(driver: str, dsn: str, tmp_path: Path) -> Iterator[sqlalchemy.Engine]:
    """An engine, made before the instrumentation starts or after it."""
    engine = engine_for(driver, dsn, tmp_path)
    engine.dispose()
    yield engine
    gc.collect()
    engine.dispose()


def added(engine: sqlalchemy.Engine) -> bool:
    """Whether the row is there, asked on a connection of its own that nobody watches."""
    with engine.connect() as connection:
        return bool(connection.scalar(sqlalchemy.text("SELECT count(*) FROM customers WHERE id = 4")))


def transactions(reports: Reports) -> list[ReadableSpan]:
    """The spans of the transactions, in the order of their end."""
    return reports.telemetry.spans("transaction")


def outcomes(reports: Reports) -> list[tuple[str, object]]:
    """Whose transactions have ended, and how."""
    return [
        (span.name.removeprefix("transaction "), dict(span.attributes or {})["connleak.transaction.outcome"])
        for span in transactions(reports)
    ]


FORGOTTEN: dict[str, Work] = {
    "forget_commit": shop.forget_commit,
    "forget_commit_and_close": shop.forget_commit_and_close,
    "forget_in_session": shop.forget_in_session,
    "forget_in_block": shop.forget_in_block,
    "forget_and_reset": shop.forget_and_reset,
    "forget_many": shop.forget_many,
    "forget_on_one_branch": shop.forget_on_one_branch,
    "forget_second": shop.forget_second,
    "forget_raw": shop.forget_raw,
    "forget_after_savepoint": shop.forget_after_savepoint,
    "forget_in_handler": shop.forget_in_handler,
}
"""Functions that lose what they have written."""


UNSEEN = {
    ("sqlite", "forget_after_savepoint"): "sqlite3 commits with a savepoint that nothing has begun before",
    ("pg8000", "forget_raw"): "nobody tells what is called without SQLAlchemy",
}
"""What cannot be reported, and why."""


@pytest.mark.parametrize("name", FORGOTTEN)
def test_forgotten(name: str, driver: str, engine: sqlalchemy.Engine, reports: Reports) -> None:
    """What was written and never committed is reported at once, and is not there."""
    FORGOTTEN[name](engine)
    if (driver, name) in UNSEEN:
        reports.none()
        return
    leak = reports.leak()

    assert leak.function == f"alchemy.{name}"
    assert leak.evidence == {"discarded"}
    assert leak.certainty == "confirmed"
    assert leak.attributes["connleak.resource"] == "transaction"
    assert open_holds() == []
    assert not added(engine)


MEANT: dict[str, tuple[Work, list[str]]] = {
    "read": (shop.read, ["rolled_back", "rolled_back"]),
    "commit": (shop.commit, ["committed", "rolled_back"]),
    "commit_session": (shop.commit_session, ["committed", "rolled_back"]),
    "roll_back": (shop.roll_back, ["rolled_back"]),
    "roll_back_session": (shop.roll_back_session, ["rolled_back"]),
    "close_transaction": (shop.close_transaction, ["rolled_back"]),
    "invalidate": (shop.invalidate, ["rolled_back"]),
    "invalidate_session": (shop.invalidate_session, ["rolled_back"]),
    "fail": (shop.fail, ["rolled_back"]),
    "fail_in_begin": (shop.fail_in_begin, ["rolled_back"]),
    "fail_in_session": (shop.fail_in_session, ["rolled_back"]),
    "fail_in_session_begin": (shop.fail_in_session_begin, ["rolled_back"]),
    "fail_finally": (shop.fail_finally, ["rolled_back"]),
    "fail_in_dependency": (shop.fail_in_dependency, ["rolled_back"]),
    "autocommit": (shop.autocommit, []),
    "nothing": (shop.nothing, []),
    "in_savepoints": (shop.in_savepoints, ["committed"]),
    "join": (shop.join, ["rolled_back"]),
}
"""Functions that know what they do, and how their transactions end on PostgreSQL."""


@pytest.mark.parametrize("name", MEANT)
def test_meant(name: str, engine: sqlalchemy.Engine, reports: Reports) -> None:
    """Whatever ends a transaction on purpose, or because of an exception, is no report."""
    method, ends = MEANT[name]
    method(engine)

    assert open_holds() == []
    if engine.name == "postgresql":
        assert [end for _, end in outcomes(reports)] == ends
    reports.none()


@pytest.mark.parametrize("driver", SERVERS, indirect=True)
@pytest.mark.parametrize(
    ("method", "ends"),
    [
        (shop.aborted, "rolled_back"),
        (shop.in_two_phases, "committed"),
        (shop.in_two_phases_by_session, "committed"),
    ],
)
def test_on_a_server(method: Work, ends: str, engine: sqlalchemy.Engine, reports: Reports) -> None:
    """What the server has aborted cannot be lost any more; what it has prepared is safe."""
    method(engine)

    assert [end for _, end in outcomes(reports)] == [ends]
    assert open_holds() == []
    reports.none()


OWNERS: dict[str, tuple[Work, list[str]]] = {
    "begin": (shop.begin, ["begin"]),
    "begin_on_connection": (shop.begin_on_connection, ["begin_on_connection"]),
    "begin_session": (shop.begin_session, ["begin_session"]),
    "begin_maker": (shop.begin_maker, ["begin_maker"]),
    "begin_unit": (shop.begin_unit, ["begin_unit"]),
    "begin_elsewhere": (shop.begin_elsewhere, ["add", "count"]),
    "begin_again": (shop.begin_again, ["add"]),
    "write": (shop.write, ["add"]),
}
"""Functions and helpers, and whose the transactions are."""


@pytest.mark.parametrize("name", OWNERS)
def test_owner(name: str, engine: sqlalchemy.Engine, reports: Reports) -> None:
    """A transaction is that of the function whose block it is, or else whose statement has begun it."""
    method, owners = OWNERS[name]
    method(engine)

    expected = owners if engine.name == "postgresql" or name != "begin_elsewhere" else owners[:1]
    assert [owner for owner, _ in outcomes(reports)][: len(expected)] == expected
    reports.none()


def test_line_of_the_block(dsn: str, tmp_path: Path, reports: Reports) -> None:
    """The report of a block names the line of the block, not of the statement."""
    engine = engine_for("psycopg", dsn, tmp_path)
    shop.begin(engine)
    engine.dispose()
    (span,) = transactions(reports)
    attributes = dict(span.attributes or {})

    assert attributes["code.line.number"] == shop.begin.__code__.co_firstlineno + 2
    assert attributes["connleak.statements"] == 2  # and the commit
    reports.none()


@pytest.mark.parametrize("driver", SERVERS[:2], indirect=True)
def test_overdue(engine: sqlalchemy.Engine, instrument: Instrument) -> None:
    """A transaction that lies idle is reported with its connection, and recovers."""
    reports = instrument(overdue_after=0.3)

    def wait() -> None:
        wait_until(reports.leaks, "a leak")
        reports.settle()

    shop.hold(engine, wait)
    leaks = reports.leaks()

    assert {leak.function for leak in leaks} == {"alchemy.hold"}
    assert [leak.evidence for leak in leaks] == [{"overdue"}]
    assert len(reports.recoveries()) == 1


def test_hint(dsn: str, tmp_path: Path, instrument: Instrument, caplog: pytest.LogCaptureFixture) -> None:
    """The report says how to commit with SQLAlchemy, and not with its driver."""
    reports = instrument(grace=NEVER)
    engine = engine_for("psycopg", dsn, tmp_path)
    shop.forget_commit(engine)
    reports.leak()
    engine.dispose()

    assert "hint: use `with engine.begin() as connection:` or `with session.begin():`" in caplog.text


def test_library_is_as_before(reports: Reports) -> None:
    """What SQLAlchemy gives is of its own types, and its methods say what they are."""
    engine = sqlalchemy.create_engine("sqlite://")
    with engine.connect() as connection:
        transaction: Any = connection.begin()
        assert type(transaction) is sqlalchemy.RootTransaction
        with pytest.raises(sqlalchemy.exc.InvalidRequestError, match="already initialized"):
            connection.begin()
    assert sqlalchemy.Connection.begin.__name__ == "begin"
    reports.none()


LATER = """
import sys
from otel_connleak import ConnLeakInstrumentor
ConnLeakInstrumentor().instrument()
import sqlalchemy
assert not {"sqlalchemy.orm.session", "sqlalchemy.ext.asyncio"} & set(sys.modules)
from sqlalchemy.orm import Session
from sqlalchemy.ext.asyncio import AsyncSession
hooked = [vars(Session)["begin"], vars(AsyncSession)["close"]]
ConnLeakInstrumentor().uninstrument()
assert [function.__wrapped__ for function in hooked] == [vars(Session)["begin"], vars(AsyncSession)["close"]]
"""


def test_parts_that_are_not_used() -> None:
    """Sessions and asyncio are hooked when the application imports them, and not loaded for us."""
    subprocess.run([sys.executable, "-c", LATER], check=True, timeout=60)
