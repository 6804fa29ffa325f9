"""No false alarm: what looks like a leak and is none is not reported."""

import asyncio
import logging
import time
from typing import Any

import pytest
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from tests.innocent import tasks, threads
from tests.support.reports import GRACE, Reports
from tests.support.telemetry import Telemetry

LONGER_THAN_THE_GRACE = 4 * GRACE
"""So that a claim falls due, and is looked at again."""


@pytest.fixture(autouse=True)
def quiet_pool(caplog: pytest.LogCaptureFixture) -> None:
    """The pool's own warnings about returned transactions are not what these tests are about."""
    caplog.set_level(logging.ERROR, logger="psycopg.pool")


@pytest.fixture(autouse=True)
def traced(telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> None:
    """The spans of the scenarios are recorded, so that the end of a trace is seen."""
    for module in (threads, tasks):
        monkeypatch.setattr(module, "tracer", telemetry.tracer_provider.get_tracer("innocent"))


@pytest.mark.parametrize("scenario", threads.SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_in_threads(scenario: Any, dsn: str, telemetry: Telemetry) -> None:
    """Each synchronous scenario makes holds, and no report."""
    with (
        telemetry.instrumented(grace=GRACE),
        ConnectionPool(dsn, min_size=1, max_size=4, name="orders", open=True) as pool,
    ):
        # A bounded wait: it proves that something does not happen.
        scenario(pool, lambda: time.sleep(LONGER_THAN_THE_GRACE))
        Reports(telemetry).none(after=0)
        assert telemetry.spans("hold")


@pytest.mark.parametrize("scenario", tasks.SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_in_tasks(scenario: Any, dsn: str, telemetry: Telemetry) -> None:
    """Each asynchronous scenario makes holds, and no report."""

    async def wait() -> None:
        await asyncio.sleep(LONGER_THAN_THE_GRACE)

    async def run() -> None:
        async with AsyncConnectionPool(dsn, min_size=1, max_size=4, name="orders", open=False) as pool:
            await scenario(pool, wait)

    with telemetry.instrumented(grace=GRACE):
        asyncio.run(run())
        Reports(telemetry).none(after=0)
        assert telemetry.spans("hold")
