"""A small tool on SQLite: what it writes, and what is left of it."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

from tests.corpus.stage import Stage

ADD = "INSERT INTO customers VALUES (?, ?)"
BEFORE = ["customer 1"]

connections: list[Any] = []
"""The one connection of the process."""


class MailUnavailable(ConnectionError):
    """The mail server does not answer."""


def greet(name: str) -> None:
    """Sends a mail, which fails."""
    raise MailUnavailable(name)


def shop(stage: Stage) -> Path:
    """A database with one customer."""
    path = stage.folder() / "shop.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT);"
            "INSERT INTO customers VALUES (1, 'customer 1');"
        )
    return path


def names(path: Path) -> list[str]:
    """The names of all customers, as another connection sees them."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM customers ORDER BY id")]


def add(path: Path, name: str, **options: Any) -> None:
    """Forgets to commit."""
    connection = sqlite3.connect(path, **options)
    connection.execute(ADD, (2, name))
    connection.close()


def add_and_commit(path: Path, name: str, **options: Any) -> None:
    """Commits."""
    connection = sqlite3.connect(path, **options)
    connection.execute(ADD, (2, name))
    connection.commit()
    connection.close()


def add_with(path: Path, name: str) -> None:
    """``with`` commits, and does not close."""
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(ADD, (2, name))
    connection.close()


def add_and_greet(path: Path, name: str) -> None:
    """``with`` rolls back, because of an exception."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(ADD, (2, name))
        greet(name)


def add_and_greet_closing(path: Path, name: str) -> None:
    """An exception comes before the commit, and the connection is closed."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(ADD, (2, name))
        greet(name)
        connection.commit()


def add_again(path: Path, name: str) -> None:
    """The row is there already, which is handled; nothing was written."""
    connection = sqlite3.connect(path)
    try:
        connection.execute(ADD, (1, name))
    except sqlite3.IntegrityError:
        pass
    connection.close()


def add_and_begin_anew(path: Path, name: str) -> None:
    """Commits, reads on, and closes: with ``autocommit=False`` a transaction is always open."""
    connection = sqlite3.connect(path, autocommit=False)
    connection.execute(ADD, (2, name))
    connection.commit()
    connection.execute("SELECT name FROM customers").fetchall()
    connection.close()


def add_all(path: Path, *more: str) -> None:
    """Many rows through a cursor; forgets to commit."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        cursor = connection.cursor()
        cursor.executemany(ADD, enumerate(more, start=2))


def add_by_script(path: Path, script: str) -> None:
    """A script, which commits what was open before it, and has its own ``BEGIN`` and ``COMMIT``, or not."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)


def read(path: Path) -> list[Any]:
    """Reads, and closes."""
    with contextlib.closing(sqlite3.connect(path, autocommit=False)) as connection:
        return connection.execute("SELECT name FROM customers").fetchall()


def would_add(path: Path, name: str) -> int:
    """A dry run: takes back what it has written."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        count = connection.execute(ADD, (2, name)).rowcount
        connection.rollback()
        return count


def connect_for_the_process(path: Path) -> None:
    """Connect for the life of the process."""
    connections.append(sqlite3.connect(path))


def log(line: str) -> None:
    """Writes with the connection of the process, and leaves the commit to whoever thinks of it."""
    connections[0].execute(ADD, (2, line))


def forgotten_commit(stage: Stage) -> None:
    """An insert, and no commit before the connection is closed: the row is not there."""
    path = shop(stage)
    stage.fact()
    add(path, "Ada")
    assert names(path) == BEFORE


def committed(stage: Stage) -> None:
    """The same with a commit."""
    path = shop(stage)
    add_and_commit(path, "Ada")
    assert names(path) == [*BEFORE, "Ada"]


def committed_by_with(stage: Stage) -> None:
    """``with connection:`` commits."""
    path = shop(stage)
    add_with(path, "Ada")
    assert names(path) == [*BEFORE, "Ada"]


def no_isolation_level(stage: Stage) -> None:
    """``isolation_level=None``: nobody commits, and nobody needs to."""
    path = shop(stage)
    add(path, "Ada", isolation_level=None)
    assert names(path) == [*BEFORE, "Ada"]


def autocommit(stage: Stage) -> None:
    """``autocommit=True``: nobody commits, and nobody needs to."""
    path = shop(stage)
    add(path, "Ada", autocommit=True)
    assert names(path) == [*BEFORE, "Ada"]


def no_autocommit(stage: Stage) -> None:
    """``autocommit=False``, and no commit before the connection is closed: the row is not there."""
    path = shop(stage)
    stage.fact()
    add(path, "Ada", autocommit=False)
    assert names(path) == BEFORE


def no_autocommit_and_committed(stage: Stage) -> None:
    """``autocommit=False``, a commit, and then only a read in the transaction that the commit has begun."""
    path = shop(stage)
    add_and_begin_anew(path, "Ada")
    assert names(path) == [*BEFORE, "Ada"]


def many_rows(stage: Stage) -> None:
    """An ``executemany`` is discarded: the rows are not there."""
    path = shop(stage)
    stage.fact()
    add_all(path, "Ada", "Bea")
    assert names(path) == BEFORE


def script_commits(stage: Stage) -> None:
    """A script with its own ``COMMIT``."""
    path = shop(stage)
    add_by_script(path, "BEGIN; INSERT INTO customers VALUES (2, 'Ada'); COMMIT;")
    assert names(path) == [*BEFORE, "Ada"]


def script_without_transaction(stage: Stage) -> None:
    """A script that begins nothing: each of its statements is committed."""
    path = shop(stage)
    add_by_script(path, "INSERT INTO customers VALUES (2, 'Ada');")
    assert names(path) == [*BEFORE, "Ada"]


def script_forgets_to_commit(stage: Stage) -> None:
    """A script that begins a transaction, and does not end it: the row is not there."""
    path = shop(stage)
    stage.fact()
    add_by_script(path, "BEGIN; INSERT INTO customers VALUES (2, 'Ada');")
    assert names(path) == BEFORE


def exception_in_a_with(stage: Stage) -> None:
    """``with connection:`` rolls back because of an exception."""
    path = shop(stage)
    with contextlib.suppress(MailUnavailable):
        add_and_greet(path, "Ada")
    assert names(path) == BEFORE


def exception_before_the_commit(stage: Stage) -> None:
    """An exception comes before the commit; ``closing`` closes."""
    path = shop(stage)
    with contextlib.suppress(MailUnavailable):
        add_and_greet_closing(path, "Ada")
    assert names(path) == BEFORE


def failed_insert(stage: Stage) -> None:
    """The only insert has failed, and a transaction is open all the same: nothing is discarded."""
    path = shop(stage)
    add_again(path, "Ada")
    assert names(path) == BEFORE


def read_only(stage: Stage) -> None:
    """A transaction that has only read is ended by the close."""
    assert len(read(shop(stage))) == 1


def dry_run(stage: Stage) -> None:
    """A rollback on purpose."""
    path = shop(stage)
    assert would_add(path, "Ada") == 1


def committed_late_by_its_process(stage: Stage) -> None:
    """The one connection of the process commits what a function has written, within the grace."""
    connect_for_the_process(shop(stage))
    log("a line")
    connections[0].commit()
    stage.wait()


def uncommitted_at_exit(stage: Stage) -> None:
    """The one connection of the process has written, and nobody commits before the process ends."""
    connect_for_the_process(shop(stage))
    log("a line")


def committed_at_exit(stage: Stage) -> None:
    """The one connection of the process has written and committed when the process ends."""
    connect_for_the_process(shop(stage))
    log("a line")
    connections[0].commit()
