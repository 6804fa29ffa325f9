"""The trace of one request with SQLAlchemy on asyncpg, as a tracing backend shows it: as a whole tree."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor
from opentelemetry.sdk.trace import ReadableSpan
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.adapters.shop import async_alchemy as shop
from tests.adapters.shop.alchemy import COUNT
from tests.adapters.test_sqlalchemy_async import engine_on_asyncpg
from tests.support.queried import instrumented
from tests.support.reports import NEVER
from tests.support.telemetry import Telemetry

type Tree = list[tuple[str, Tree]]


def tree(spans: Sequence[ReadableSpan], parent: int | None = None) -> Tree:
    """The names of the spans below one, by their begin, each with those below it; queries by their text."""
    below = [span for span in spans if (span.parent.span_id if span.parent else None) == parent]
    found: Tree = []
    for span in sorted(below, key=lambda span: span.start_time or 0):
        assert span.context is not None
        text = str(dict(span.attributes or {}).get("db.statement", span.name))
        name = " ".join(text.split()).partition(" (")[0].partition(" FROM")[0]
        found.append((name, tree(spans, span.context.span_id)))
    return found


async def commit_twice(engine: AsyncEngine, wait: Callable[[], Any]) -> None:
    """A request with two transactions on one connection."""
    async with engine.connect() as connection:
        await connection.execute(COUNT)
        await connection.commit()
        await wait()
        await shop.add(connection)
        await connection.rollback()


TREES: dict[Callable[..., Any], Tree] = {
    shop.handle: [
        (
            "hold handle",
            [
                (
                    "transaction handle",
                    [
                        ("BEGIN;", []),
                        ("SELECT count(*) AS count_1", []),
                        ("INSERT INTO customers", []),
                        ("COMMIT;", []),
                    ],
                )
            ],
        ),
        ("between", []),
    ],
    commit_twice: [
        (
            "hold commit_twice",
            [
                (
                    "transaction commit_twice",
                    [("BEGIN;", []), ("SELECT count(*) AS count_1", []), ("COMMIT;", [])],
                ),
                ("transaction add", [("BEGIN;", []), ("INSERT INTO customers", []), ("ROLLBACK;", [])]),
            ],
        ),
        ("between", []),
    ],
}
"""What is below the span of a request. Nothing of ours is current between two calls of the driver."""


@pytest.mark.parametrize("method", TREES)
def test_request(method: Callable[..., Any], dsn: str, telemetry: Telemetry) -> None:
    """From the root to the queries: hold, transaction within it, and what was asked in that."""
    tracer = telemetry.tracer_provider.get_tracer("web")

    async def between() -> None:
        tracer.start_span("between").end()

    async def serve() -> None:
        engine = engine_on_asyncpg(dsn)
        await shop.read(engine)  # SQLAlchemy's own first questions to a server are no part of a request
        telemetry.clear()
        with tracer.start_as_current_span("GET /customers"):
            await method(engine, between)
        await engine.dispose()

    with (
        telemetry.instrumented(grace=NEVER, overdue_after=NEVER),
        instrumented(telemetry, AsyncPGInstrumentor),
    ):
        asyncio.run(serve())

    assert tree(telemetry.spans()) == [("GET /customers", TREES[method])]
