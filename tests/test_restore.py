"""``uninstrument()`` is the exact inverse: identical functions; no tool id, event, thread or exit handler."""

import functools
import sys
import threading
from collections.abc import Iterator
from types import CodeType, ModuleType
from typing import Any

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool, ConnectionPool, NullConnectionPool

from otel_connleak import ConnLeakInstrumentor, open_holds
from tests.support.launcher import APPS, environment, run
from tests.support.telemetry import Telemetry

PATCHED = [
    (psycopg, "connect"),
    (psycopg.Connection, "connect"),
    (psycopg.Connection, "close"),
    (psycopg.AsyncConnection, "connect"),
    (psycopg.AsyncConnection, "close"),
    (ConnectionPool, "getconn"),
    (ConnectionPool, "putconn"),
    (AsyncConnectionPool, "getconn"),
    (AsyncConnectionPool, "putconn"),
]
"""What must be replaced at least for the instrumentation to work."""
OUR_TOOLS = (3, 4, 5)
"""The tool ids of `sys.monitoring` that are not reserved for anybody."""


def everything() -> dict[str, object]:
    """Each attribute of each module and class of both libraries by its full name, but for counters."""
    modules = [module for name, module in list(sys.modules.items()) if name.startswith("psycopg")]
    classes = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__.startswith("psycopg")
    }
    owners: list[tuple[str, ModuleType | type]] = [(module.__name__, module) for module in modules]
    owners += [(f"{cls.__module__}.{cls.__qualname__}", cls) for cls in classes]
    return {
        f"{label}.{name}": value
        for label, owner in owners
        for name, value in vars(owner).items()
        if not isinstance(value, int)
    }


def changed(before: dict[str, object]) -> list[str]:
    """The names of the attributes that are not the identical objects they were."""
    now = everything()
    return sorted(name for name, value in before.items() if now.get(name) is not value)


def acquire_and_release(dsn: str) -> None:
    """Use the pools and a direct connection once, through code of this module."""
    for kind in (ConnectionPool, NullConnectionPool):
        with kind(dsn, min_size=0, max_size=1, num_workers=1, open=True) as pool:
            connection = pool.getconn()
            connection.execute("SELECT 1")
            connection.rollback()
            pool.putconn(connection)
    psycopg.connect(dsn).close()


@pytest.fixture(autouse=True)
def nothing_lazy(dsn: str) -> None:
    """Let the libraries import and cache whatever they do on first use, before we look."""
    acquire_and_release(dsn)


@pytest.fixture
def somebody_else() -> Iterator[list[str]]:
    """Undo whatever a test has put on top of us; the list is for what its wrappers note."""
    before = {(owner, name): vars(owner)[name] for owner, name in PATCHED}
    yield []
    for (owner, name), original in before.items():
        if vars(owner)[name] is not original:
            setattr(owner, name, original)


def put_on_top(owner: Any, name: str, notes: list[str]) -> object:
    """Wrap a function as another tool would; each call is noted."""
    inner = getattr(owner, name)

    @functools.wraps(inner)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        notes.append(name)
        return inner(*args, **kwargs)

    setattr(owner, name, wrapper)
    return wrapper


def test_identical_functions(dsn: str, telemetry: Telemetry) -> None:
    """Every attribute of every class and module of the libraries is the very object it was before."""
    before = everything()
    originals = [vars(owner)[name] for owner, name in PATCHED]
    with telemetry.instrumented():
        replaced = [vars(owner)[name] for owner, name in PATCHED]
        acquire_and_release(dsn)

    assert all(new is not old for new, old in zip(replaced, originals, strict=True))
    assert [vars(owner)[name] for owner, name in PATCHED] == originals
    assert changed(before) == []


def test_identical_after_several_rounds(dsn: str, telemetry: Telemetry) -> None:
    """It can be started and stopped again and again, and works each time."""
    before = everything()
    for _ in range(3):
        with telemetry.instrumented():
            acquire_and_release(dsn)
        assert changed(before) == []

    assert len(telemetry.spans("hold")) == 9


def test_instrument_twice(dsn: str, telemetry: Telemetry, caplog: pytest.LogCaptureFixture) -> None:
    """A second start changes nothing: one span for each hold, and one stop is enough."""
    before = everything()
    with telemetry.instrumented() as instrumentor:
        once = everything()
        instrumentor.instrument(tracer_provider=telemetry.tracer_provider)
        assert changed(once) == []
        acquire_and_release(dsn)

    assert changed(before) == []
    assert len(telemetry.spans("hold")) == 3
    assert "already instrumented" in caplog.text


def test_uninstrument_twice(telemetry: Telemetry, caplog: pytest.LogCaptureFixture) -> None:
    """A second stop changes nothing."""
    before = everything()
    with telemetry.instrumented() as instrumentor:
        instrumentor.uninstrument()
    ConnLeakInstrumentor().uninstrument()

    assert changed(before) == []


def test_wrapper_on_top_stays(dsn: str, telemetry: Telemetry, somebody_else: list[str]) -> None:
    """What another tool has wrapped around our hooks stays and works, and ours do nothing any more."""
    with telemetry.instrumented():
        wrappers = {name: put_on_top(ConnectionPool, name, somebody_else) for name in ("getconn", "putconn")}
        close = put_on_top(psycopg.Connection, "close", somebody_else)
        acquire_and_release(dsn)
    telemetry.clear()
    somebody_else.clear()
    acquire_and_release(dsn)

    assert {name: vars(ConnectionPool)[name] for name in wrappers} == wrappers
    assert vars(psycopg.Connection)["close"] is close
    assert {"getconn", "putconn", "close"} <= set(somebody_else)
    assert telemetry.spans() == []


def test_wrapper_on_top_and_again(dsn: str, telemetry: Telemetry, somebody_else: list[str]) -> None:
    """Started again on top of that, each hold is seen once."""
    with telemetry.instrumented():
        wrapper = put_on_top(ConnectionPool, "getconn", somebody_else)
    with telemetry.instrumented():
        acquire_and_release(dsn)

    assert vars(ConnectionPool)["getconn"] is wrapper
    assert len(telemetry.spans("hold")) == 3


def test_wrapper_below_stays(dsn: str, telemetry: Telemetry, somebody_else: list[str]) -> None:
    """What another tool had wrapped before us is what is given back."""
    wrapper = put_on_top(ConnectionPool, "getconn", somebody_else)
    with telemetry.instrumented():
        acquire_and_release(dsn)

    assert vars(ConnectionPool)["getconn"] is wrapper
    assert somebody_else == ["getconn", "getconn"]
    assert len(telemetry.spans("hold")) == 3


def test_held_meanwhile(dsn: str, telemetry: Telemetry) -> None:
    """What was acquired before the start can be released during it, and what during it after the stop."""
    with ConnectionPool(dsn, min_size=2, max_size=2, num_workers=1, open=True) as pool:
        before = pool.getconn()
        with telemetry.instrumented():
            pool.putconn(before)
            during = pool.getconn()
            assert len(open_holds()) == 1
        pool.putconn(during)
        assert open_holds() == []
        with telemetry.instrumented():
            with pool.connection():
                assert len(open_holds()) == 1
            assert open_holds() == []


def test_spans_of_what_is_held_end(dsn: str, telemetry: Telemetry) -> None:
    """The span of what is held at the stop ends with it: no trace is left without a parent."""
    with ConnectionPool(dsn, min_size=1, max_size=1, num_workers=1, open=True) as pool:
        with telemetry.instrumented():
            connection = pool.getconn()
        assert len(telemetry.spans("hold")) == 1
        pool.putconn(connection)

    assert len(telemetry.spans("hold")) == 1
    assert telemetry.spans("leak") == []


def test_monitoring_is_given_back(dsn: str, telemetry: Telemetry) -> None:
    """The tool id is free again, and no event is left on any code."""
    before = [sys.monitoring.get_tool(tool) for tool in OUR_TOOLS]
    with telemetry.instrumented():
        acquire_and_release(dsn)
        taken = [sys.monitoring.get_tool(tool) for tool in OUR_TOOLS]
        (tool,) = [tool for tool in OUR_TOOLS if sys.monitoring.get_tool(tool) == "otel_connleak"]
        assert sys.monitoring.get_local_events(tool, acquire_and_release.__code__) != 0
    after = [sys.monitoring.get_tool(tool) for tool in OUR_TOOLS]

    assert taken != before
    assert after == before
    assert events_left(tool, acquire_and_release.__code__) == (0, 0)


def events_left(tool: int, code: CodeType) -> tuple[int, int]:
    """The events of a free tool id: global ones, and those of one code object."""
    sys.monitoring.use_tool_id(tool, "test")
    try:
        return sys.monitoring.get_events(tool), sys.monitoring.get_local_events(tool, code)
    finally:
        sys.monitoring.free_tool_id(tool)


def test_tool_ids_of_others(dsn: str, telemetry: Telemetry, caplog: pytest.LogCaptureFixture) -> None:
    """Where others have taken all tool ids, they keep them; we say once what is off, and the rest works."""
    free = [tool for tool in OUR_TOOLS if sys.monitoring.get_tool(tool) is None]
    for tool in free:
        sys.monitoring.use_tool_id(tool, "somebody else")
    try:
        with telemetry.instrumented():
            acquire_and_release(dsn)
        assert {sys.monitoring.get_tool(tool) for tool in free} == {"somebody else"}
    finally:
        for tool in free:
            sys.monitoring.free_tool_id(tool)
    ours = [record for record in caplog.records if record.name == "otel_connleak"]

    assert ["evidence function_exited is off" in record.getMessage() for record in ours] == [True]
    assert len(telemetry.spans("hold")) == 3


def test_one_tool_id_of_others(dsn: str, telemetry: Telemetry) -> None:
    """Where another tool sits on the id that we would take, we take another one."""
    with telemetry.instrumented():
        (first,) = [tool for tool in OUR_TOOLS if sys.monitoring.get_tool(tool) == "otel_connleak"]
    sys.monitoring.use_tool_id(first, "somebody else")
    try:
        with telemetry.instrumented():
            acquire_and_release(dsn)
            (second,) = [tool for tool in OUR_TOOLS if sys.monitoring.get_tool(tool) == "otel_connleak"]
        assert sys.monitoring.get_tool(first) == "somebody else"
    finally:
        sys.monitoring.free_tool_id(first)

    assert second != first


def test_no_thread_is_left(dsn: str, telemetry: Telemetry) -> None:
    """The watchdog ends with the instrumentation."""
    with telemetry.instrumented():
        acquire_and_release(dsn)
        assert any("connleak" in thread.name for thread in threading.enumerate())

    assert [thread.name for thread in threading.enumerate() if "connleak" in thread.name] == []


def test_nothing_runs_at_exit(dsn: str) -> None:
    """Nothing of ours is said at the end of a process in which the instrumentation was stopped before."""
    finished = run(APPS / "leaving.py", "stopped", env=environment(DSN=dsn), instrument=False)

    assert finished.returncode == 0
    assert [line for line in finished.leaks if "dropped" not in line] == []
    assert "at exit" not in finished.stderr
    assert "Traceback" not in finished.stderr


def test_span_processor_is_taken_out(telemetry: Telemetry) -> None:
    """The tracer provider has the span processors that it had."""
    before = telemetry.tracer_provider._active_span_processor._span_processors
    with telemetry.instrumented():
        assert len(telemetry.tracer_provider._active_span_processor._span_processors) == len(before) + 1

    assert telemetry.tracer_provider._active_span_processor._span_processors == before
