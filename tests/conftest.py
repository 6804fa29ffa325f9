"""Fixtures for all tests: the database server, a fresh schema, telemetry, and a guard after each test."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import psycopg
import psycopg_pool
import pytest

from examples.otlp_receiver import OtlpReceiver
from otel_connleak import ConnLeakInstrumentor
from otel_connleak.patching import Patches
from tests.support.postgres import embedded_postgres, fresh_schema
from tests.support.telemetry import Telemetry

_replace = Patches.replace
HOOKED: dict[Any, list[str]] = {
    psycopg: ["connect"],
    psycopg.Connection: ["connect", "close"],
    psycopg.AsyncConnection: ["connect", "close"],
    psycopg_pool.ConnectionPool: ["getconn", "putconn", "connection", "close"],
    psycopg_pool.NullConnectionPool: ["getconn", "putconn", "connection", "close"],
    psycopg_pool.AsyncConnectionPool: ["getconn", "putconn", "connection", "close"],
    psycopg_pool.AsyncNullConnectionPool: ["getconn", "putconn", "connection", "close"],
}
"""The functions that an adapter may replace, of the libraries that are loaded anyway."""


def pytest_configure() -> None:
    """Let a terminated test run end like an interrupted one: fixtures then stop what they have started."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The connection string of a real PostgreSQL server, one for the test session."""
    with embedded_postgres() as dsn:
        yield dsn


@pytest.fixture
def dsn(postgres: str) -> Iterator[str]:
    """A connection string into a fresh schema with a table ``customers`` of three rows."""
    with fresh_schema(postgres) as dsn:
        yield dsn


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    """An OTLP/HTTP receiver on the loopback interface."""
    with OtlpReceiver() as receiver:
        yield receiver


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    """Private OpenTelemetry providers that keep what they get in memory; nothing is instrumented yet."""
    telemetry = Telemetry()
    yield telemetry
    telemetry.shutdown()


class Replaced(NamedTuple):
    """A function that an adapter has replaced."""

    owner: Any
    name: str
    original: object
    replacement: object

    @property
    def now(self) -> object:
        """What is there now."""
        return vars(self.owner).get(self.name)


@pytest.fixture
def replaced() -> Iterator[list[Replaced]]:
    """Every function that an adapter replaces during the test."""
    found: list[Replaced] = []

    def replace(patches: Patches, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        original = vars(owner).get(name)
        _replace(patches, owner, name, make)
        found.append(Replaced(owner, name, original, vars(owner).get(name)))

    Patches.replace = replace  # type: ignore[method-assign, assignment]  # not by monkeypatch, whose tests come first
    yield found
    Patches.replace = _replace  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def leaves_nothing_instrumented(replaced: list[Replaced]) -> Iterator[None]:
    """Fail a test that leaves this process instrumented: a hook, a monitoring tool or a watchdog."""
    before = _what_is_hooked()
    yield
    instrumentor = ConnLeakInstrumentor()
    if instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.uninstrument()
        pytest.fail("the test left the process instrumented")
    left = [name for name, function in _what_is_hooked().items() if function is not before[name]]
    left += [f"{each.owner}.{each.name}" for each in replaced if each.now is each.replacement]
    left += [f"thread {thread.name}" for thread in threading.enumerate() if "connleak" in thread.name]
    tools = [sys.monitoring.get_tool(tool) for tool in range(6)]
    left += [f"monitoring tool {tool}" for tool in tools if tool is not None and "connleak" in tool]
    if left:
        pytest.fail(f"the test left behind: {', '.join(left)}")


def _what_is_hooked() -> dict[str, object]:
    """Every function that an adapter may replace, as it is found in its own class, by a readable name."""
    return {
        f"{owner.__name__}.{name}": vars(owner).get(name) for owner, names in HOOKED.items() for name in names
    }
