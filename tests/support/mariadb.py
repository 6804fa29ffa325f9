"""A MariaDB server of our own: started in a temporary folder, removed at the end."""

import functools
import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymysql

from tests.support.waiting import wait_until

MISSING = (
    "there is no MariaDB server on this machine: install one with `apt-get install mariadb-server` "
    "(Debian, Ubuntu) or `brew install mariadb` (macOS)"
)

# Nobody needs the safe values in a database that lives for one test run. Without the tables for rights there
# is nothing to prepare in a new data folder, and everybody is let in: to no files but the server's own.
SETTINGS = (
    "--no-defaults --skip-grant-tables --skip-name-resolve --skip-log-bin --bind-address=127.0.0.1 "
    "--innodb-flush-log-at-trx-commit=0 --innodb-log-file-size=4M --innodb-buffer-pool-size=8M "
    "--innodb-fast-shutdown=2 --innodb-lock-wait-timeout=5 --lock-wait-timeout=10"
).split()
CUSTOMERS = (
    "CREATE TABLE {}.customers (id INT PRIMARY KEY, name VARCHAR(50)) ENGINE=InnoDB",
    "INSERT INTO {}.customers VALUES (1, 'customer 1'), (2, 'customer 2'), (3, 'customer 3')",
)


@dataclass(frozen=True)
class MariaDB:
    """A running server, and a connection of our own to it that was made before any instrumentation."""

    socket: str
    port: int
    connection: "pymysql.Connection[Any]"

    def execute(self, statement: str) -> tuple[Any, ...]:
        """Run a statement and give its rows."""
        with self.connection.cursor() as cursor:
            cursor.execute(statement)
            return tuple(cursor.fetchall())

    def sessions(self, database: str) -> list[int]:
        """The connection ids of the sessions in a database."""
        rows = self.execute(f"SELECT id FROM information_schema.processlist WHERE db = '{database}'")
        return [int(number) for (number,) in rows]

    def kill(self, number: int) -> None:
        """End a session, and wait until it is over."""
        with suppress(pymysql.err.OperationalError):  # it has ended by itself
            self.execute(f"KILL {number}")
        about = f"SELECT id FROM information_schema.processlist WHERE id = {number}"
        wait_until(lambda: not self.execute(about), f"the end of session {number}")


@dataclass(frozen=True)
class Database:
    """A fresh database with a table ``customers`` of three rows."""

    server: MariaDB
    name: str

    @property
    def parameters(self) -> dict[str, Any]:
        """Connects PyMySQL and mysql-connector-python through the server's Unix socket."""
        return {"unix_socket": self.server.socket, "user": "root", "database": self.name}

    @property
    def by_network(self) -> dict[str, Any]:
        """Connects them over the loopback interface."""
        return {"host": "127.0.0.1", "port": self.server.port, "user": "root", "database": self.name}


def server_program() -> str | None:
    """The server's program, also where it is not on the path of an ordinary user."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/usr/libexec"])
    for name in ("mariadbd", "mysqld"):  # before MariaDB 10.5 it was only called the latter
        program = shutil.which(name, path=path)
        if program is not None and "MariaDB" in _output(program, "--version"):
            return program
    return None


@contextmanager
def embedded_mariadb(program: str) -> Iterator[MariaDB]:
    """Run a server for the length of a ``with`` block; it stops when the block ends.

    It listens on a Unix socket and on the loopback interface.

    Raises:
        RuntimeError: the server did not start; with what it has said.
    """
    # Short, because a Unix socket's path has about a hundred characters at the most.
    home = Path(tempfile.mkdtemp(prefix="connleak-my-"))
    try:
        process, server = _started(program, home)
        try:
            yield server
        finally:
            server.connection.close()
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def fresh_database(server: MariaDB) -> Iterator[Database]:
    """Make a database with a table ``customers`` of three rows, for the length of a ``with`` block."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    server.execute(f"CREATE DATABASE {name}")
    for statement in CUSTOMERS:
        server.execute(statement.format(name))
    try:
        yield Database(server, name)
    finally:
        # A test that leaks on purpose leaves sessions with locks, for which a DROP would wait.
        for number in server.sessions(name):
            server.kill(number)
        server.execute(f"DROP DATABASE {name}")


def _started(program: str, home: Path) -> "tuple[subprocess.Popen[bytes], MariaDB]":
    for attempt in range(3):
        # Whoever takes the port between these lines makes the server give up: then again, with another one.
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        folder = home / str(attempt)
        (folder / "data").mkdir(parents=True)
        process = _start(program, folder, port)
        path = f"{folder}/socket"
        try:
            wait_until(functools.partial(_listens_or_has_ended, process, path), "MariaDB", timeout=60)
            if process.poll() is None:
                connection = pymysql.connect(unix_socket=path, user="root", autocommit=True)
                return process, MariaDB(path, port, connection)
        except BaseException:
            process.kill()
            process.wait()
            raise
    raise RuntimeError(f"{program} has ended:\n{(folder / 'log').read_text(errors='replace')}")


def _listens_or_has_ended(process: "subprocess.Popen[bytes]", path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client, suppress(OSError):
        client.connect(path)
        return True
    return process.poll() is not None


def _start(program: str, folder: Path, port: int) -> "subprocess.Popen[bytes]":
    command = [
        program,
        *SETTINGS,
        f"--datadir={folder}/data",
        f"--socket={folder}/socket",
        f"--pid-file={folder}/pid",
        f"--tmpdir={folder}",
        f"--secure-file-priv={folder}/data",
        f"--port={port}",
    ]
    if os.geteuid() == 0:
        command.append("--user=root")  # else it refuses to run as root
    # A path that is right for the libraries of this process is not always right for the server.
    environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    with (folder / "log").open("wb") as output:
        # In a session of its own, so that Ctrl+C in the terminal does not end it before the tests do.
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout
    except OSError:
        return ""
