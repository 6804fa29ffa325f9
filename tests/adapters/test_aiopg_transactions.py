"""How transactions of aiopg end. Its connections commit at once, if nobody begins one by a statement."""

import asyncio
import contextlib
import warnings
from collections.abc import Callable
from typing import Any

import aiopg
import pytest

from otel_connleak import open_holds
from tests.support.reports import Reports
from tests.support.transactions import ADD, added, ended


async def commits(cursor: Any) -> None:
    """The block commits."""
    async with cursor.begin():
        await cursor.execute(ADD)


async def fails(cursor: Any) -> None:
    """The block rolls back."""
    with contextlib.suppress(LookupError):
        async with cursor.begin():
            await cursor.execute(ADD)
            raise LookupError


async def part(cursor: Any) -> None:
    """A block in the block is a savepoint."""
    async with cursor.begin():
        await cursor.execute(ADD)
        async with cursor.begin_nested():
            await cursor.execute("UPDATE customers SET name = 'renamed' WHERE id = 4")


async def by_hand(cursor: Any) -> None:
    """In words."""
    await cursor.execute("BEGIN")
    await cursor.execute(ADD)
    await cursor.execute("COMMIT")


async def forgets(cursor: Any) -> None:
    """Begins, writes, and nobody commits."""
    await cursor.execute("BEGIN")
    await cursor.execute(ADD)


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize(
    ("use", "outcome", "writes", "rows"),
    [
        (commits, "committed", 1, 1),
        (fails, "rolled_back", 1, 0),
        (part, "committed", 2, 1),
        (by_hand, "committed", 1, 1),
        (forgets, "discarded", 1, 0),
    ],
    ids=lambda value: getattr(value, "__name__", None) if callable(value) else None,
)
def test_end(
    use: Callable[[Any], Any],
    outcome: str,
    writes: int,
    rows: int,
    pooled: bool,
    dsn: str,
    runner: asyncio.Runner,
    reports: Reports,
) -> None:
    """One transaction, of the function whose statement has begun it; only what was forgotten is reported."""

    async def work() -> None:
        async with contextlib.AsyncExitStack() as stack:
            if pooled:
                pool = await stack.enter_async_context(aiopg.create_pool(dsn, minsize=0, maxsize=1))
                connection = await stack.enter_async_context(pool.acquire())
            else:
                connection = await stack.enter_async_context(aiopg.connect(dsn))
            async with connection.cursor() as cursor:
                await use(cursor)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Invalid transaction status", ResourceWarning)
        runner.run(work())

    assert [(how, written) for _, how, _, written in ended(reports)] == [(outcome, writes)]
    assert {function for function, *_ in ended(reports)} == {use.__name__}
    assert added(dsn) == rows
    assert open_holds() == []
    if outcome == "discarded":
        assert "discarded" in reports.leak().evidence
    else:
        reports.none()
