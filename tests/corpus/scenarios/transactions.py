"""A customer repository that writes: who commits, and who forgets to."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import psycopg
from psycopg_pool import ConnectionPool

from tests.corpus.stage import Stage

type Pool = ConnectionPool[Any]

ADD = "INSERT INTO customers (id, name) VALUES (%s, %s)"
BEFORE = ["customer 1", "customer 2", "customer 3"]


class CustomerRepository:
    """Each method takes a connection of its own."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def add(self, name: str) -> None:
        """Forgets to commit."""
        connection = self.pool.getconn()
        try:
            connection.execute(ADD, (4, name))
        finally:
            self.pool.putconn(connection)

    def add_with(self, name: str) -> None:
        """``with`` commits."""
        with self.pool.connection() as connection:
            connection.execute(ADD, (4, name))

    def add_sorted(self, name: str, *, vip: bool) -> None:
        """Commits for some customers."""
        connection = self.pool.getconn()
        try:
            if vip:
                connection.execute(ADD, (0, name))
                connection.commit()
            else:
                connection.execute(ADD, (4, name))
        finally:
            self.pool.putconn(connection)

    def add_with_mail(self, name: str, mail: str | None) -> bool:
        """Returns before the commit where there is no address to greet."""
        connection = self.pool.getconn()
        try:
            connection.execute(ADD, (4, name))
            if mail is None:
                return False
            connection.commit()
            return True
        finally:
            self.pool.putconn(connection)

    def add_all(self, names: Iterable[str]) -> None:
        """Commits whenever two are together, and not the odd one at the end."""
        connection = self.pool.getconn()
        try:
            for count, name in enumerate(names, start=1):
                insert(connection, 3 + count, name)
                if count % 2 == 0:
                    connection.commit()
        finally:
            self.pool.putconn(connection)

    def add_without_parentheses(self, name: str) -> None:
        """Looks at ``commit``, and does not call it."""
        connection = self.pool.getconn()
        connection.execute(ADD, (4, name))
        connection.commit  # noqa: B018  # the mistake that it is about
        self.pool.putconn(connection)

    def copy_to_archive(self, archive: Pool) -> None:
        """Commits what it has read, and not what it has written."""
        connection, target = self.pool.getconn(), archive.getconn()
        for (name,) in connection.execute("SELECT name FROM customers WHERE id = 1").fetchall():
            target.execute(ADD, (4, name))
        connection.commit()
        archive.putconn(target)
        self.pool.putconn(connection)

    def add_if_missing(self, name: str) -> None:
        """Its question has begun a transaction: the block within is a savepoint, and commits nothing."""
        connection = self.pool.getconn()
        try:
            row = connection.execute("SELECT 1 FROM customers WHERE name = %s", (name,)).fetchone()
            if row is None:
                with connection.transaction():
                    connection.execute(ADD, (4, name))
        finally:
            self.pool.putconn(connection)

    def add_in_block(self, name: str) -> None:
        """The block is the transaction, and commits it."""
        connection = self.pool.getconn()
        try:
            with connection.transaction():
                connection.execute(ADD, (4, name))
        finally:
            self.pool.putconn(connection)

    def add_by_text(self, name: str) -> None:
        """Commits by a statement."""
        connection = self.pool.getconn()
        try:
            connection.execute(ADD, (4, name))
            connection.execute("COMMIT")
        finally:
            self.pool.putconn(connection)

    def would_add(self, name: str, undo: str) -> bool:
        """A dry run: takes back what it has written."""
        connection = self.pool.getconn()
        try:
            cursor = connection.execute(ADD, (4, name))
            connection.execute(undo)
            return bool(cursor.rowcount)
        finally:
            self.pool.putconn(connection)

    def read(self, *statements: str) -> list[Any]:
        """Ends no transaction: the pool does that."""
        connection = self.pool.getconn()
        try:
            for statement in statements:
                rows: list[Any] = connection.execute(statement).fetchall()
            return rows
        finally:
            self.pool.putconn(connection)


def insert(connection: Any, number: int, name: str) -> None:
    """Leaves the commit to its caller."""
    connection.execute(ADD, (number, name))


def sign_up(connection: Any, name: str) -> None:
    """Leaves the commit to its caller, too."""
    insert(connection, 4, name)


def forgotten_commit(stage: Stage) -> None:
    """An insert, and no commit before the connection is given back: the row is not there."""
    repository = CustomerRepository(stage.pool())
    stage.fact()
    repository.add("Ada")
    assert stage.names() == BEFORE


def forgotten_commit_of_a_direct_connection(stage: Stage) -> None:
    """An insert, and no commit before the connection is closed: the row is not there."""
    connection = psycopg.connect(stage.dsn)
    connection.execute(ADD, (4, "Ada"))
    stage.fact()
    connection.close()
    assert stage.names() == BEFORE


def commit_on_one_branch(stage: Stage) -> None:
    """One of two branches commits: one row is there, the other is not."""
    repository = CustomerRepository(stage.pool())
    repository.add_sorted("Ada", vip=True)
    stage.fact()
    repository.add_sorted("Bea", vip=False)
    assert stage.names() == ["Ada", *BEFORE]


def return_before_the_commit(stage: Stage) -> None:
    """An early return comes before the commit: the row is not there."""
    repository = CustomerRepository(stage.pool())
    stage.fact()
    repository.add_with_mail("Ada", None)
    assert stage.names() == BEFORE


def commit_is_reached(stage: Stage) -> None:
    """The same function where it comes to its commit."""
    CustomerRepository(stage.pool()).add_with_mail("Ada", "ada@example.org")
    assert stage.names() == [*BEFORE, "Ada"]


def last_batch_is_not_committed(stage: Stage) -> None:
    """Two rows are committed; the third comes with the next commit, which never comes."""
    repository = CustomerRepository(stage.pool())
    stage.fact()
    repository.add_all(["Ada", "Bea", "Cleo"])
    assert stage.names() == [*BEFORE, "Ada", "Bea"]


def all_batches_are_committed(stage: Stage) -> None:
    """The same with an even number of rows."""
    CustomerRepository(stage.pool()).add_all(["Ada", "Bea"])
    assert stage.names() == [*BEFORE, "Ada", "Bea"]


def commit_is_not_called(stage: Stage) -> None:
    """``commit`` without parentheses: the row is not there."""
    repository = CustomerRepository(stage.pool())
    stage.fact()
    repository.add_without_parentheses("Ada")
    assert stage.names() == BEFORE


def another_connection_is_committed(stage: Stage) -> None:
    """Two connections, and the commit is for the one that has only read: the row is not there."""
    repository, archive = CustomerRepository(stage.pool()), stage.pool(name="archive")
    stage.fact()
    repository.copy_to_archive(archive)
    assert stage.names() == BEFORE


def savepoint_is_taken_for_a_transaction(stage: Stage) -> None:
    """A ``transaction()`` block after a question is a savepoint: the row is not there."""
    repository = CustomerRepository(stage.pool())
    stage.fact()
    repository.add_if_missing("Ada")
    assert stage.names() == BEFORE


def committed_by_with(stage: Stage) -> None:
    """The ``with`` statement of the pool commits."""
    CustomerRepository(stage.pool()).add_with("Ada")
    assert stage.names() == [*BEFORE, "Ada"]


def committed_by_a_block(stage: Stage) -> None:
    """The ``with`` statement of the transaction commits."""
    CustomerRepository(stage.pool()).add_in_block("Ada")
    assert stage.names() == [*BEFORE, "Ada"]


def committed_by_text(stage: Stage) -> None:
    """A statement commits."""
    CustomerRepository(stage.pool()).add_by_text("Ada")
    assert stage.names() == [*BEFORE, "Ada"]


def autocommit(stage: Stage) -> None:
    """Nobody commits, and nobody needs to: the row is there."""
    CustomerRepository(stage.pool(kwargs={"autocommit": True})).add("Ada")
    assert stage.names() == [*BEFORE, "Ada"]


def block_in_autocommit(stage: Stage) -> None:
    """A ``transaction()`` block after a question, where that has begun nothing: the row is there."""
    CustomerRepository(stage.pool(kwargs={"autocommit": True})).add_if_missing("Ada")
    assert stage.names() == [*BEFORE, "Ada"]


def dry_run(stage: Stage) -> None:
    """A statement rolls back on purpose."""
    CustomerRepository(stage.pool()).would_add("Ada", "ROLLBACK")
    assert stage.names() == BEFORE


def read_only(stage: Stage) -> None:
    """A transaction that has only read is ended by the pool."""
    CustomerRepository(stage.pool()).read("SELECT name FROM customers")


def locked_and_given_back(stage: Stage) -> None:
    """A transaction that has locked rows and written nothing is ended by the pool."""
    CustomerRepository(stage.pool()).read("SELECT name FROM customers FOR UPDATE")


def committed_two_levels_up(stage: Stage) -> None:
    """A helper of a helper inserts; whoever has the connection commits, after several graces."""
    with psycopg.connect(stage.dsn) as connection:
        sign_up(connection, "Ada")
        stage.wait()
        connection.commit()
    assert stage.names() == [*BEFORE, "Ada"]


def committed_by_another_thread(stage: Stage) -> None:
    """One thread inserts, and another one commits and gives back, after several graces."""
    pool = stage.pool()
    connection = pool.getconn()
    sign_up(connection, "Ada")

    def finish() -> None:
        stage.wait()
        connection.commit()
        pool.putconn(connection)

    thread = threading.Thread(target=finish)
    thread.start()
    thread.join()
    assert stage.names() == [*BEFORE, "Ada"]
