"""What a scenario is played on: a database, pools, and a way to say when the fact has happened."""

from __future__ import annotations

import asyncio
import tempfile
import time
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from tests.corpus.truth import GRACE

_POOL_OPTIONS: Final[dict[str, Any]] = {"min_size": 1, "max_size": 4, "timeout": 5.0, "name": "orders"}


class Stage:
    """Given to each scenario; everything else in a scenario is the application's own.

    Attributes:
        dsn: connection string of a PostgreSQL server with a table ``customers`` of three rows, which no other
            scenario sees.
    """

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._pools = ExitStack()
        self._async_pools = AsyncExitStack()

    def pool(self, **options: Any) -> ConnectionPool[Any]:
        """An open pool called "orders" of at most four connections; closed when the process ends."""
        options = _POOL_OPTIONS | options
        pool = self._pools.enter_context(ConnectionPool(self.dsn, open=True, **options))
        pool.wait()  # what it costs to connect is no part of the time to report
        return pool

    async def async_pool(self, **options: Any) -> AsyncConnectionPool[Any]:
        """The same for asyncio; closed when the loop ends."""
        options = _POOL_OPTIONS | options
        pool = await self._async_pools.enter_async_context(
            AsyncConnectionPool(self.dsn, open=False, **options)
        )
        await pool.wait()
        return pool

    @property
    def asyncpg(self) -> dict[str, Any]:
        """The arguments with which asyncpg connects there."""
        parts = conninfo_to_dict(self.dsn)
        search_path = str(parts["options"]).partition("search_path=")[2]
        parameters = {name: parts[name] for name in ("user", "host", "port") if name in parts}
        settings = {"search_path": search_path}
        return parameters | {"database": parts["dbname"], "server_settings": settings}

    def names(self) -> list[str]:
        """The names of all customers, by number, as a session of its own sees them: what is committed."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            rows = connection.execute("SELECT name FROM customers ORDER BY id").fetchall()
        return [name for (name,) in rows]

    def folder(self) -> Path:
        """An empty folder; removed when the process ends."""
        return Path(self._pools.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))

    def fact(self, name: str = "fact") -> None:
        """Say that what the evidence is about happens now; the last time counts."""
        print(f"fact {name} {time.time()}", flush=True)

    def wait(self, graces: float = 3) -> None:
        """Let several graces pass, as slow work does: a claim falls due, and is looked at again."""
        time.sleep(graces * GRACE)

    async def sleep(self, graces: float = 3) -> None:
        """The same for asyncio."""
        await asyncio.sleep(graces * GRACE)

    def close(self) -> None:
        """Close the pools, and remove the folders."""
        self._pools.close()

    async def aclose(self) -> None:
        """Close the pools for asyncio."""
        await self._async_pools.aclose()
