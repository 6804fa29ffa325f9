"""Two modules for ``trace_dbapi``: pg8000, which is Python, and sqlite3 under another name, which is C."""

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pg8000.dbapi
from opentelemetry.sdk.trace import ReadableSpan
from psycopg.conninfo import conninfo_to_dict

from otel_connleak import trace_dbapi, untrace_dbapi
from tests.support import litedb
from tests.support.reports import GRACE, NEVER, Reports
from tests.support.telemetry import Telemetry

QUICK: dict[str, Any] = {"grace": GRACE, "overdue_after": NEVER}


def parameters(dsn: str) -> dict[str, Any]:
    """What pg8000 needs to reach the server of a connection string of libpq."""
    parts = conninfo_to_dict(dsn)
    return {
        "user": parts["user"],
        "database": parts["dbname"],
        "unix_sock": f"{parts['host']}/.s.PGSQL.5432",
        "startup_params": {"search_path": str(parts["options"]).rpartition("=")[2]},
    }


@contextmanager
def untraced_at_the_end() -> Iterator[None]:
    """When the ``with`` block ends both modules are untraced, and must have their own functions again.

    Reference cycles live until then: whoever keeps a connection in one keeps it for the whole test.
    """
    before = _functions()
    gc.disable()
    try:
        yield
    finally:
        untrace_dbapi(litedb)
        untrace_dbapi(pg8000.dbapi)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # of connections that were left open on purpose
            gc.collect()
        gc.enable()
    assert _functions() == before


@contextmanager
def traced(telemetry: Telemetry, **settings: Any) -> Iterator[Reports]:
    """Both modules are traced and this process is instrumented for the length of a ``with`` block."""
    trace_dbapi(litedb, "sqlite")
    trace_dbapi(pg8000.dbapi)
    with telemetry.instrumented(**QUICK | settings):
        yield Reports(telemetry)


def query_spans(telemetry: Telemetry) -> list[ReadableSpan]:
    """The spans of queries."""
    return [
        span for span in telemetry.spans() if span.name.split(" ")[0] not in ("hold", "leak", "transaction")
    ]


def _functions() -> list[Any]:
    return [
        litedb.connect,
        pg8000.dbapi.connect,
        *(vars(cls).get("close") for cls in pg8000.dbapi.Connection.__mro__),
    ]
