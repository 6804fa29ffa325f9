"""Every class of pools of SQLAlchemy, on files of SQLite, and how they are found in a program."""

import gc
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import exc, pool, text

from otel_connleak import open_holds
from tests.adapters.conftest import Instrument
from tests.adapters.shop.engines import ONE, drop, keep, use
from tests.support.reports import GRACE, Report, Reports
from tests.support.telemetry import Telemetry

type MakeEngine = Callable[..., sqlalchemy.Engine]
"""Makes an engine with options."""

CLASSES: list[type[pool.Pool]] = [
    pool.QueuePool,
    pool.NullPool,
    pool.StaticPool,
    pool.SingletonThreadPool,
    pool.AssertionPool,
]


@pytest.fixture
def make_engine(tmp_path: Path) -> Iterator[MakeEngine]:
    """A function that makes engines on a file, which are disposed of at the end."""
    with ExitStack() as stack:

        def make(**options: Any) -> sqlalchemy.Engine:
            engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/shop.db", **options)
            stack.callback(engine.dispose)
            return engine

        yield make
        gc.collect()  # what is in a cycle goes back to its pool, and is closed with it


def who(leak: Report) -> tuple[str, str]:
    """The function to blame, and for how certain."""
    return leak.function, leak.certainty


@pytest.mark.parametrize("cls", CLASSES)
class TestEveryPool:
    """What is the same for all classes of pools."""

    @pytest.fixture
    def engine(self, cls: type[pool.Pool], make_engine: MakeEngine) -> sqlalchemy.Engine:
        """An engine with such a pool."""
        return make_engine(poolclass=cls)

    def test_use(self, engine: sqlalchemy.Engine, reports: Reports) -> None:
        """A correct function makes one hold each time, and what idles in the pool is no leak."""
        use(engine)
        use(engine)

        assert reports.hold_names() == ["use", "use"]
        reports.none()

    def test_drop(self, engine: sqlalchemy.Engine, reports: Reports) -> None:
        """What is dropped is reported at once, although the pool takes it back."""
        drop(engine)

        assert who(reports.leak()) == ("engines.drop", "confirmed")
        use(engine)
        assert open_holds() == []

    def test_keep(self, engine: sqlalchemy.Engine, reports: Reports) -> None:
        """What stays alive where nobody can close it is reported after the grace."""
        keep(engine)

        assert who(reports.leak()) == ("engines.keep", "possible")

    def test_held_by_a_caller(self, engine: sqlalchemy.Engine, reports: Reports) -> None:
        """What the pool or a caller keeps for longer than the grace is no leak."""
        connection = engine.connect()
        connection.execute(ONE)
        reports.none()
        connection.close()
        reports.none()


@pytest.mark.parametrize("cls", CLASSES)
def test_made_before_the_start(cls: type[pool.Pool], make_engine: MakeEngine, instrument: Instrument) -> None:
    """An engine made earlier is seen, and so are the connections in its pool."""
    engine = make_engine(poolclass=cls)
    use(engine)
    reports = instrument()
    use(engine)
    drop(engine)

    assert who(reports.leak()) == ("engines.drop", "confirmed")
    assert reports.hold_names() == ["use", "drop"]


def test_calls_that_no_driver_tells_of(
    make_engine: MakeEngine, instrument: Instrument, caplog: pytest.LogCaptureFixture
) -> None:
    """The calls of a connection whose driver does not tell of them are counted here, once each."""
    engine = make_engine()
    use(engine)
    reports = instrument()
    keep(engine)

    assert reports.leak().attributes["db.system.name"] == "sqlite"
    assert re.search(r"last statement \d+ ms ago: SELECT", caplog.text)


@pytest.mark.parametrize("tells", [True, False])
def test_overdue(tells: bool, make_engine: MakeEngine, instrument: Instrument) -> None:
    """Where not all calls are seen nobody can say that a connection has been idle: it is not overdue."""
    engine = make_engine()
    if not tells:
        use(engine)  # its connection is from before the start: the driver does not tell of its calls
    reports = instrument(overdue_after=0.1)
    with engine.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        if tells:
            assert reports.leak().evidence == {"overdue"}
        else:
            reports.none(3 * GRACE)


def test_failing_call(make_engine: MakeEngine, instrument: Instrument) -> None:
    """A statement that fails is counted, and the connection is idle again."""
    engine = make_engine()
    use(engine)
    reports = instrument()
    with engine.connect() as connection:
        with pytest.raises(exc.OperationalError):
            connection.execute(text("SELECT * FROM no_such_table"))
        connection.execute(ONE)
    (span,) = reports.telemetry.spans("hold")

    assert (span.attributes or {})["connleak.statements"] == 3  # and the rollback of what was read


def test_nested_connects_of_one_thread(make_engine: MakeEngine, reports: Reports) -> None:
    """The pool of one connection a thread gives it out once, to however many ask."""
    engine = make_engine(poolclass=pool.SingletonThreadPool)
    with engine.connect() as connection:
        with engine.connect():
            use(engine)
        assert len(open_holds()) == 1
        connection.execute(ONE)

    assert reports.hold_names() == ["test_nested_connects_of_one_thread"]
    reports.none()


def test_shared_by_two(make_engine: MakeEngine, reports: Reports) -> None:
    """The pool of one connection gives it to two at the same time: neither is a leak."""
    engine = make_engine(poolclass=pool.StaticPool)
    first = engine.connect()
    second = engine.connect()
    reports.none()
    first.close()
    reports.none()
    second.close()
    reports.none()

    assert open_holds() == []


def test_closed_by_the_pool(make_engine: MakeEngine, reports: Reports) -> None:
    """A connection that its pool closes although it is out is held no more, whoever still has it."""
    engine = make_engine(poolclass=pool.StaticPool)
    connection = engine.connect()
    engine.dispose()

    assert open_holds() == []
    connection.close()
    assert reports.hold_names() == ["test_closed_by_the_pool"]
    reports.none()


def test_detached_without_a_trace(make_engine: MakeEngine, instrument: Instrument) -> None:
    """A detached connection by which no hold can be known any more is let go."""
    engine = make_engine()
    use(engine)
    reports = instrument()
    connection = engine.connect()
    connection.detach()

    assert open_holds() == []
    connection.close()
    assert reports.hold_names() == ["test_detached_without_a_trace"]
    reports.none()


def test_listeners(make_engine: MakeEngine, telemetry: Telemetry) -> None:
    """While it is instrumented there are listeners for all pools, and afterwards none."""
    dispatch: Any = make_engine().pool.dispatch
    events = ["reset", "close", "checkin", "detach"]
    for _ in range(2):
        with telemetry.instrumented():
            assert [len(getattr(dispatch, name)) for name in events] == [1, 1, 1, 1]
        assert [len(getattr(dispatch, name)) for name in events] == [0, 0, 0, 0]


def test_recycled(make_engine: MakeEngine, reports: Reports) -> None:
    """A connection that is too old is closed by the pool when it would be given out again, and is no leak."""
    engine = make_engine(pool_recycle=0)
    use(engine)
    use(engine)

    assert reports.hold_names() == ["use", "use"]
    reports.none()


PROGRAM = """
from otel_connleak import ConnLeakInstrumentor, open_holds
ConnLeakInstrumentor().instrument()
import {module}
import sqlalchemy
connection = sqlalchemy.create_engine("sqlite://").connect()
print(len(open_holds()))
"""


@pytest.mark.parametrize(
    "module", ["sqlalchemy", "sqlalchemy.pool", "sqlalchemy.orm", "sqlalchemy.ext.asyncio"]
)
def test_imported_later(module: str) -> None:
    """Whatever part of SQLAlchemy is imported first, it is hooked."""
    program = PROGRAM.format(module=module)
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert finished.stdout == "1\n"


FORKING = """
import os, sys, time
from otel_connleak import ConnLeakInstrumentor, leaks, open_holds
ConnLeakInstrumentor().instrument(grace=0.1)
import sqlalchemy
engine = sqlalchemy.create_engine("sqlite:///" + sys.argv[1], pool_size=3)
def use(connection):
    return connection.execute(sqlalchemy.text("SELECT 1")).scalar_one()
with engine.connect() as held, engine.connect():
    use(held)
pid = 0
with engine.connect() as held:
    use(held)
    pid = os.fork()
    if pid == 0:
        engine.dispose(close=False)
        with engine.connect() as own:
            use(own)
            assert len(open_holds()) == 1
            time.sleep(0.3)
    else:
        os.waitpid(pid, 0)
        assert len(open_holds()) == 1
assert open_holds() == []
time.sleep(0.3)
print("child" if pid == 0 else "parent", len(leaks()), flush=True)
"""


def test_forked(tmp_path: Path) -> None:
    """A child that disposes of the pool without closing, as it must, leaks nothing; nor does its parent."""
    command = [sys.executable, "-W", "ignore", "-c", FORKING, str(tmp_path / "shop.db")]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)

    assert finished.stdout.splitlines() == ["child 0", "parent 0"], finished.stderr
    assert "leak" not in finished.stderr
