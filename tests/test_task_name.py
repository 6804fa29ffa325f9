"""The name of the task that acquired is in the report, also when the task has long been collected."""

import asyncio
import gc
from typing import Any

from psycopg_pool import AsyncConnectionPool

from tests.support.reports import GRACE, Reports
from tests.support.telemetry import Telemetry


def test_task_that_is_gone(dsn: str, telemetry: Telemetry) -> None:
    """A task keeps a connection in a list that only a traceback reaches, ends, and is collected."""
    errors: list[BaseException] = []

    async def fail(pool: AsyncConnectionPool[Any]) -> None:
        connection = await pool.getconn()
        try:
            raise LookupError(connection.info.dbname)
        except LookupError as error:
            errors.append(error)  # its traceback keeps the connection

    async def run() -> None:
        async with AsyncConnectionPool(dsn, min_size=1, name="orders", open=False) as pool:
            await asyncio.create_task(fail(pool), name="import customers")
            await asyncio.sleep(0)  # the callbacks of the task run, before its last reference goes
            gc.collect()
            leak = await asyncio.to_thread(Reports(telemetry).leak)
            assert leak.attributes["connleak.task.name"] == "import customers"
            assert "task_ended" in leak.evidence
            errors.clear()

    with telemetry.instrumented(grace=GRACE):
        asyncio.run(run())
        assert (telemetry.span("hold").attributes or {})["connleak.task.name"] == "import customers"
