"""A maintenance job: statements that write, those that do not, and a commit that is forgotten."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg_pool import ConnectionPool

from tests.corpus.stage import Stage

type Pool = ConnectionPool[Any]

BEFORE = ["customer 1", "customer 2", "customer 3"]


def take_back(change: Any) -> None:
    """The block of this transaction does not like what it has done."""
    raise psycopg.Rollback(change)


class Maintenance:
    """Runs what an administrator has written down, and leaves the commit to nobody."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def run(self, *statements: str) -> None:
        """One after the other, in one transaction."""
        connection = self.pool.getconn()
        try:
            for statement in statements:
                connection.execute(statement)
        finally:
            self.pool.putconn(connection)

    def run_with_cursor(self, statement: str) -> list[Any]:
        """Reads what the statement gives."""
        connection = self.pool.getconn()
        with connection.cursor() as cursor:
            rows: list[Any] = cursor.execute(statement).fetchall()
        self.pool.putconn(connection)
        return rows

    def load(self, *names: str) -> None:
        """Copies rows into the table."""
        connection = self.pool.getconn()
        with connection.cursor() as cursor, cursor.copy("COPY customers (id, name) FROM STDIN") as copy:
            for number, name in enumerate(names, start=4):
                copy.write_row((number, name))
        self.pool.putconn(connection)

    def export(self) -> list[Any]:
        """Copies rows out of the table."""
        connection = self.pool.getconn()
        with connection.cursor() as cursor, cursor.copy("COPY customers TO STDOUT") as copy:
            rows = list(copy.rows())
        self.pool.putconn(connection)
        return rows

    def add_all(self, *names: str) -> None:
        """Many rows in one call."""
        connection = self.pool.getconn()
        with connection.cursor() as cursor:
            cursor.executemany("INSERT INTO customers VALUES (%s, %s)", enumerate(names, start=4))
        self.pool.putconn(connection)

    def send_all(self, *names: str) -> None:
        """Many statements in one round trip."""
        connection = self.pool.getconn()
        with connection.pipeline():
            for number, name in enumerate(names, start=4):
                connection.execute("INSERT INTO customers VALUES (%s, %s)", (number, name))
        self.pool.putconn(connection)

    def rename_or_not(self, number: int) -> None:
        """Takes back a change that it does not like, and only that; it has changed nothing else."""
        connection = self.pool.getconn()
        with connection.transaction():
            connection.execute("SELECT name FROM customers").fetchall()
            with connection.transaction() as change:
                connection.execute("UPDATE customers SET name = 'nobody' WHERE id = %s", (number,))
                take_back(change)
        self.pool.putconn(connection)

    def rename_by_savepoint(self, number: int) -> None:
        """The same by statements, and without a commit: there is nothing to commit."""
        self.run(
            "SAVEPOINT change",
            f"UPDATE customers SET name = 'nobody' WHERE id = {number}",
            "ROLLBACK TO SAVEPOINT change",
        )

    def rename_and_keep_the_rest(self) -> None:
        """Takes back the second of two changes, and commits the first."""
        connection = self.pool.getconn()
        connection.execute("UPDATE customers SET name = 'Ada' WHERE id = 1")
        with connection.transaction() as change:
            connection.execute("UPDATE customers SET name = 'Bea' WHERE id = 2")
            take_back(change)
        connection.commit()
        self.pool.putconn(connection)


def discarded(stage: Stage, *statements: str) -> None:
    """Run statements that write; nothing has changed."""
    maintenance = Maintenance(stage.pool())
    stage.fact()
    maintenance.run(*statements)
    assert stage.names() == BEFORE


def update(stage: Stage) -> None:
    """An UPDATE is discarded: the rows are as before."""
    discarded(stage, "UPDATE customers SET name = 'nobody'")


def delete(stage: Stage) -> None:
    """A DELETE is discarded: the rows are there."""
    discarded(stage, "DELETE FROM customers WHERE id > 1")


def truncate(stage: Stage) -> None:
    """A TRUNCATE is discarded: the rows are there."""
    discarded(stage, "TRUNCATE customers")


def merge(stage: Stage) -> None:
    """A MERGE is discarded: the rows are as before."""
    discarded(
        stage,
        """MERGE INTO customers USING (VALUES (4, 'Ada')) AS new (id, name) ON customers.id = new.id
           WHEN NOT MATCHED THEN INSERT VALUES (new.id, new.name)""",
    )


def new_column(stage: Stage) -> None:
    """An ALTER TABLE is discarded: PostgreSQL takes that back, too."""
    discarded(stage, "ALTER TABLE customers ADD COLUMN city text")


def write_after_a_read(stage: Stage) -> None:
    """A read begins the transaction, and then a comment hides the write."""
    discarded(stage, "SELECT name FROM customers", "/* nightly */ -- of all\nDELETE FROM customers")


def write_within_a_select(stage: Stage) -> None:
    """A SELECT whose WITH clause inserts is discarded: the row is not there."""
    maintenance = Maintenance(stage.pool())
    stage.fact()
    maintenance.run_with_cursor(
        "WITH new AS (INSERT INTO customers VALUES (4, 'Ada') RETURNING id) SELECT id FROM new"
    )
    assert stage.names() == BEFORE


def read_with_a_clause(stage: Stage) -> None:
    """A SELECT whose WITH clause reads, and whose text says "insert into", has nothing to discard."""
    Maintenance(stage.pool()).run_with_cursor(
        "WITH new AS (SELECT 'insert into customers' AS text) SELECT text FROM new"
    )


def copy_in(stage: Stage) -> None:
    """A COPY FROM is discarded: the rows are not there."""
    maintenance = Maintenance(stage.pool())
    stage.fact()
    maintenance.load("Ada", "Bea")
    assert stage.names() == BEFORE


def copy_out(stage: Stage) -> None:
    """A COPY TO reads."""
    assert len(Maintenance(stage.pool()).export()) == len(BEFORE)


def many_rows(stage: Stage) -> None:
    """An ``executemany`` is discarded: the rows are not there."""
    maintenance = Maintenance(stage.pool())
    stage.fact()
    maintenance.add_all("Ada", "Bea")
    assert stage.names() == BEFORE


def pipeline(stage: Stage) -> None:
    """The inserts of a pipeline are discarded: the rows are not there."""
    maintenance = Maintenance(stage.pool())
    stage.fact()
    maintenance.send_all("Ada", "Bea")
    assert stage.names() == BEFORE


def temporary_table(stage: Stage) -> None:
    """A temporary table is for this session only: nobody misses it."""
    Maintenance(stage.pool()).run(
        "CREATE TEMPORARY TABLE chosen AS SELECT id FROM customers", "SELECT count(*) FROM chosen"
    )


def settings_of_the_session(stage: Stage) -> None:
    """Settings and locks end with the transaction, as they should."""
    Maintenance(stage.pool()).run(
        "SET LOCAL statement_timeout = '10s'",
        "LOCK TABLE customers IN SHARE MODE",
        "SELECT pg_advisory_xact_lock(7)",
        "EXPLAIN DELETE FROM customers",
    )


def prepared_statement_reads(stage: Stage) -> None:
    """PREPARE and EXECUTE of a read."""
    Maintenance(stage.pool()).run("PREPARE how_many AS SELECT count(*) FROM customers", "EXECUTE how_many")


def inner_block_is_rolled_back(stage: Stage) -> None:
    """Of two nested blocks the inner one takes its change back, and the outer one commits."""
    Maintenance(stage.pool()).rename_or_not(1)
    assert stage.names() == BEFORE


def rolled_back_to_a_savepoint(stage: Stage) -> None:
    """The only write is taken back, and the rest of the transaction has read: nothing is discarded."""
    Maintenance(stage.pool()).rename_by_savepoint(1)
    assert stage.names() == BEFORE


def rolled_back_to_a_savepoint_and_committed(stage: Stage) -> None:
    """The second write is taken back, and the first is committed."""
    Maintenance(stage.pool()).rename_and_keep_the_rest()
    assert stage.names() == ["Ada", "customer 2", "customer 3"]
