"""Generators that hold a connection between two items."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Generator, Iterable, Iterator
from typing import Any

from psycopg_pool import ConnectionPool

from tests.corpus.scenarios import shop_database
from tests.corpus.stage import Stage

type Pool = ConnectionPool[Any]


class CustomerRepository:
    """Who buys, row by row."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def stream(self) -> Iterator[Any]:
        """Gives back only after the last row."""
        connection = self.pool.getconn()
        yield from connection.execute("SELECT name FROM customers ORDER BY id")
        self.pool.putconn(connection)

    def stream_safely(self) -> Generator[Any]:
        """Gives back on every path."""
        connection = self.pool.getconn()
        try:
            for row in connection.execute("SELECT name FROM customers ORDER BY id"):
                yield row[0]
        finally:
            self.pool.putconn(connection)

    def stream_without_end(self) -> Iterator[Any]:
        """Does not give back even after the last row."""
        cursor = self.pool.getconn().execute("SELECT name FROM customers ORDER BY id")
        while row := cursor.fetchone():
            yield row[0]

    def stream_one_by_one(self, numbers: Iterable[int]) -> Iterator[Any]:
        """Acquires and gives back for each row."""
        for number in numbers:
            with self.pool.connection() as connection:
                row = connection.execute("SELECT name FROM customers WHERE id = %s", [number]).fetchone()
            yield row

    def sections(self) -> Iterator[Any]:
        """Delegates to another generator."""
        yield "customers"
        yield from self.stream_safely()
        yield "end"

    def hasty_sections(self) -> Iterator[Any]:
        """Delegates to one that cannot be stopped half-way."""
        yield "customers"
        yield from self.stream()

    def session(self) -> Iterator[Any]:
        """Delegates to a dependency that yields a connection."""
        yield from shop_database.get_db_hastily(self.pool)


class Feed:
    """Keeps a generator that refers to it, so that it refers to itself."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.rows = self.read()

    def read(self) -> Iterator[Any]:
        """Gives back only after the last row."""
        connection = self.pool.getconn()
        for row in connection.execute("SELECT name FROM customers ORDER BY id"):
            yield row[0]
        self.pool.putconn(connection)


class SafeFeed(Feed):
    """The same with a ``finally``."""

    def read(self) -> Iterator[Any]:
        """Gives back on every path."""
        connection = self.pool.getconn()
        try:
            yield from connection.execute("SELECT name FROM customers ORDER BY id")
        finally:
            self.pool.putconn(connection)


def count_customers(pool: Pool) -> Any:
    """Calls a dependency that cannot be used so: its generator is dropped, and nobody gives back."""
    connection = next(shop_database.get_db_hastily(pool))
    return connection.execute("SELECT count(*) FROM customers").fetchone()


def ping(repository: CustomerRepository) -> Any:
    """The same through another generator."""
    return next(iter(repository.session())).execute("SELECT 1").fetchone()


def first_of(rows: Iterable[Any]) -> Any:
    """Reads one row, and drops the rest."""
    for row in rows:
        return row
    return None


def run_without_collector() -> None:
    """As services do that cannot afford its pauses; what is there already need never be looked at."""
    gc.disable()
    gc.freeze()


def next_of_a_dependency(stage: Stage) -> None:
    """``next(get_db())``: the dependency has no ``finally``, and its caller forgets the connection."""
    pool = stage.pool()
    stage.fact()
    count_customers(pool)


def next_of_a_safe_dependency(stage: Stage) -> None:
    """``next(get_db())``: the generator is dropped, and its ``finally`` gives back at once."""
    connection = next(shop_database.get_db(stage.pool()))
    stage.wait()
    del connection


def next_of_a_delegating_dependency(stage: Stage) -> None:
    """The same with ``yield from`` between the dependency and the caller."""
    repository = CustomerRepository(stage.pool())
    stage.fact()
    ping(repository)


def dropped_half_way(stage: Stage) -> None:
    """The first row is enough; the generator is dropped and has no ``finally``."""
    repository = CustomerRepository(stage.pool())
    stage.fact()
    first_of(repository.stream())


def dropped_half_way_and_cleaned_up(stage: Stage) -> None:
    """The first row is enough; the generator is dropped, and its ``finally`` gives back."""
    first_of(CustomerRepository(stage.pool()).stream_safely())
    stage.wait()


def dropped_in_a_circle(stage: Stage) -> None:
    """The generator is part of a circle that the collector finds at once."""
    run_without_collector()
    pool = stage.pool()
    first_of(Feed(pool).rows)
    stage.fact()
    gc.collect()


def dropped_in_a_circle_and_cleaned_up(stage: Stage) -> None:
    """The same; the collector closes the generator, and its ``finally`` gives back."""
    run_without_collector()
    first_of(SafeFeed(stage.pool()).rows)
    gc.collect()


def one_of_two_dropped(stage: Stage) -> None:
    """Of two activations of one generator one is dropped half-way, the other goes on to its end."""
    repository = CustomerRepository(stage.pool(min_size=2))
    repository.pool.wait()
    rows = repository.stream()
    next(rows)
    stage.fact()
    first_of(repository.stream())
    stage.wait()
    list(rows)


def suspended_generator(stage: Stage) -> None:
    """A generator waits at its ``yield``; only the generator is kept."""
    generators = [shop_database.get_db(stage.pool())]
    next(generators[0])
    stage.wait()
    assert next(generators[0], None) is None


def closed_late(stage: Stage) -> None:
    """A generator waits half-way until somebody closes it."""
    rows = CustomerRepository(stage.pool()).stream_safely()
    next(rows)
    stage.wait()
    rows.close()


def exhausted_without_release(stage: Stage) -> None:
    """All rows are read, and the generator does not give back."""
    repository = CustomerRepository(stage.pool())
    stage.fact()
    list(repository.stream_without_end())


def read_slowly(stage: Stage) -> None:
    """Each row takes its consumer some time; the generator gives back after the last."""
    for _ in CustomerRepository(stage.pool()).stream():
        stage.wait(1.5)


def read_into_a_list(stage: Stage) -> None:
    """All rows are read at once, and the generator gives back."""
    assert len(list(CustomerRepository(stage.pool()).stream())) == 3
    stage.wait()


def sliced(stage: Stage) -> None:
    """``itertools.islice`` ends before the generator does, which has no ``finally``."""
    repository = CustomerRepository(stage.pool())
    stage.fact()
    list(itertools.islice(repository.stream(), 2))


def sliced_and_chained(stage: Stage) -> None:
    """Only iterators of ``itertools`` keep the generators, which are read half, and later to the end."""
    repository = CustomerRepository(stage.pool())
    rows = itertools.chain(itertools.islice(repository.stream_safely(), 2), repository.stream())
    next(rows)
    stage.wait()
    next(rows)
    next(rows)
    stage.wait()
    list(rows)


def one_connection_a_row(stage: Stage) -> None:
    """A generator waits between two rows, without a connection."""
    rows = CustomerRepository(stage.pool()).stream_one_by_one([1, 2, 3])
    next(rows)
    stage.wait()
    list(rows)


def delegating(stage: Stage) -> None:
    """A generator that delegates to another waits half-way, and is read to its end later."""
    rows = CustomerRepository(stage.pool()).sections()
    next(rows)
    next(rows)
    stage.wait()
    list(rows)


def delegating_and_dropped(stage: Stage) -> None:
    """A generator that delegates to another is dropped half-way."""
    repository = CustomerRepository(stage.pool())
    rows = repository.hasty_sections()
    next(rows)
    next(rows)
    stage.fact()
    del rows
