"""The trace of one request with psycopg and its pool, as a tracing backend shows it: as a whole tree."""

import asyncio
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from tests.support.queried import instrumented
from tests.support.reports import NEVER
from tests.support.telemetry import Telemetry

type Tree = list[tuple[str, Tree]]

ADD = "INSERT INTO customers VALUES (4, 'new')"
ROWS = "SELECT name FROM customers"


def tree(spans: list[ReadableSpan], parent: int | None = None) -> Tree:
    """The names of the spans below one, by their begin, each with those below it; queries by their text."""
    below = [span for span in spans if (span.parent.span_id if span.parent else None) == parent]
    found: Tree = []
    for span in sorted(below, key=lambda span: span.start_time or 0):
        assert span.context is not None
        is_query = span.kind is SpanKind.CLIENT
        name = str(dict(span.attributes or {})["db.statement"]) if is_query else span.name
        found.append((name, tree(spans, span.context.span_id)))
    return found


class Repository:
    """What a request does with the database.

    Args:
        pool: of connections.
        between: called between two calls of the driver.
    """

    def __init__(self, pool: Any, between: Callable[[], None]) -> None:
        self.pool = pool
        self.between = between

    def lists(self) -> None:
        """One query, and the pool's block commits."""
        with self.pool.connection() as connection:
            self.between()
            connection.execute(ROWS)
            self.between()

    def adds(self) -> None:
        """A block, with a savepoint in it."""
        with self.pool.connection() as connection, connection.transaction():
            connection.execute(ROWS)
            with connection.transaction():
                connection.execute(ADD)
                self.between()
            connection.execute("SELECT 1")

    def commits_twice(self) -> None:
        """Two transactions on one connection, of two functions."""
        with self.pool.connection() as connection:
            connection.execute(ROWS)
            connection.commit()
            self.between()
            self.inserts(connection)

    def inserts(self, connection: Any) -> None:
        """Begins the second one."""
        connection.execute(ADD)
        connection.execute("SELECT 2")

    def autocommits(self) -> None:
        """Queries that are in no transaction, and one that is."""
        with self.pool.connection() as connection:
            connection.autocommit = True
            connection.execute("SELECT 1")
            with connection.transaction():
                connection.execute(ROWS)
            connection.execute("SELECT 2")
            connection.autocommit = False

    def reads_slowly(self) -> None:
        """The server keeps the rows."""
        with self.pool.connection() as connection:
            connection.execute("SELECT 1")
            with connection.cursor("rows") as cursor:
                cursor.execute(ROWS)
                self.between()
                cursor.fetchone()


class AsyncRepository(Repository):
    """The same in coroutine functions."""

    async def lists(self) -> None:  # type: ignore[override]  # each is called in its own way
        """One query, and the pool's block commits."""
        async with self.pool.connection() as connection:
            self.between()
            await connection.execute(ROWS)
            self.between()

    async def adds(self) -> None:  # type: ignore[override]  # each is called in its own way
        """A block, with a savepoint in it."""
        async with self.pool.connection() as connection, connection.transaction():
            await connection.execute(ROWS)
            async with connection.transaction():
                await connection.execute(ADD)
                self.between()
            await connection.execute("SELECT 1")


BETWEEN: tuple[str, Tree] = ("between", [])
TREES: dict[str, Callable[[str], Tree]] = {
    "lists": lambda cls: [
        (f"hold {cls}.lists", [(f"transaction {cls}.lists", [(ROWS, [])])]),
        BETWEEN,
        BETWEEN,
    ],
    "adds": lambda cls: [
        (f"hold {cls}.adds", [(f"transaction {cls}.adds", [(ROWS, []), (ADD, []), ("SELECT 1", [])])]),
        BETWEEN,
    ],
    "commits_twice": lambda cls: [
        (
            f"hold {cls}.commits_twice",
            [
                (f"transaction {cls}.commits_twice", [(ROWS, [])]),
                (f"transaction {cls}.inserts", [(ADD, []), ("SELECT 2", [])]),
            ],
        ),
        BETWEEN,
    ],
    "autocommits": lambda cls: [
        (
            f"hold {cls}.autocommits",
            [
                ("SELECT 1", []),
                (f"transaction {cls}.autocommits", [(ROWS, [])]),
                ("SELECT 2", []),
            ],
        ),
    ],
    "reads_slowly": lambda cls: [
        (
            f"hold {cls}.reads_slowly",
            [(f"transaction {cls}.reads_slowly", [("SELECT 1", []), (f"cursor {cls}.reads_slowly", [])])],
        ),
        BETWEEN,
    ],
}
"""What is below the span of a request. Nothing of ours is current between two calls of the driver."""


@pytest.mark.parametrize("ours_first", [True, False])
@pytest.mark.parametrize("method", TREES)
def test_request(method: str, ours_first: bool, dsn: str, telemetry: Telemetry) -> None:
    """From the root to the queries: hold, transaction within it, and what was asked in that."""
    tracer = telemetry.tracer_provider.get_tracer("web")
    ours = telemetry.instrumented(grace=NEVER, overdue_after=NEVER)
    theirs = instrumented(telemetry, PsycopgInstrumentor)
    first, second = (ours, theirs) if ours_first else (theirs, ours)
    with first, second, ConnectionPool[psycopg.Connection[Any]](dsn, min_size=1, max_size=1) as pool:
        pool.wait()
        repository = Repository(pool, lambda: tracer.start_span("between").end())
        with tracer.start_as_current_span("GET /customers"):
            getattr(repository, method)()

    assert tree(telemetry.spans()) == [("GET /customers", TREES[method]("Repository"))]


@pytest.mark.parametrize("method", ["lists", "adds"])
def test_async_request(method: str, dsn: str, telemetry: Telemetry) -> None:
    """The same in coroutine functions."""
    tracer = telemetry.tracer_provider.get_tracer("web")

    async def serve() -> None:
        async with AsyncConnectionPool(dsn, min_size=1, max_size=1, open=False) as pool:
            await pool.wait()
            repository = AsyncRepository(pool, lambda: tracer.start_span("between").end())
            with tracer.start_as_current_span("GET /customers"):
                await getattr(repository, method)()

    with (
        telemetry.instrumented(grace=NEVER, overdue_after=NEVER),
        instrumented(telemetry, PsycopgInstrumentor),
    ):
        asyncio.run(serve())

    assert tree(telemetry.spans()) == [("GET /customers", TREES[method]("AsyncRepository"))]
