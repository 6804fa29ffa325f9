"""A driver without an adapter, by way of ``trace_dbapi``: pg8000, which is written in Python."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pg8000.dbapi
import pytest

from otel_connleak import trace_dbapi, untrace_dbapi
from tests.adapters.conftest import Instrument
from tests.adapters.contract import SyncContract
from tests.adapters.contract_fixtures import Run
from tests.adapters.library import Library
from tests.support.traced import parameters


class Direct(Library):
    """``pg8000.dbapi.connect``."""

    connection_type = pg8000.dbapi.Connection

    def __init__(self, dsn: str) -> None:
        self.parameters = parameters(dsn)

    @property
    def acquire(self) -> Callable[[], Any]:
        """Connect."""
        return functools.partial(pg8000.dbapi.connect, **self.parameters)

    @property
    def release(self) -> Callable[[Any], Any]:
        """Close, as the application calls it: on the proxy."""
        return lambda connection: connection.close()

    @property
    def refuse(self) -> Callable[[], Any]:
        """Connect where nobody listens."""
        return functools.partial(pg8000.dbapi.connect, "nobody", host="127.0.0.1", port=1)

    def execute(self, connection: Any, query: str) -> Any:
        """Run a query."""
        return connection.cursor().execute(query)

    def facts(self, connection: Any) -> dict[str, Any]:
        """What pg8000 tells, and what ``connect`` was given."""
        return {
            "db.system.name": "postgresql",
            "db.namespace": self.parameters["database"],
            "server.address": self.parameters["unix_sock"].rpartition("/")[0],
            "connleak.server.pid": int.from_bytes(connection._backend_key_data[:4]),
        }


class TestTraced(SyncContract):
    """Direct connections."""

    @pytest.fixture
    def library(self, dsn: str) -> Iterator[Library]:
        """The module is traced whenever the instrumentation runs."""
        trace_dbapi(pg8000.dbapi, "postgresql")
        yield Direct(dsn)
        untrace_dbapi(pg8000.dbapi)

    def test_connection_unchanged(
        self, library: Library, customers: Any, run: Run, instrument: Instrument
    ) -> None:
        """The one clause that is not kept: the application gets a proxy; it passes for the connection."""
        without = run(customers.inspect, type)
        instrument()
        given = run(customers.inspect, lambda connection: connection)

        assert without is library.connection_type
        assert type(given).__name__ == "TracedConnection"
        assert isinstance(given, library.connection_type)
        assert given.__class__ is library.connection_type
        assert not hasattr(given.__wrapped__, "_self_told")
