"""A customer repository in all the forms that functions take, and the exits they have."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from psycopg_pool import ConnectionPool

from tests.corpus.stage import Stage

type Pool = ConnectionPool[Any]

recent_errors: deque[Exception] = deque(maxlen=20)
"""The last errors, for a status page."""

REPORTS: Final[dict[str, Callable[[Pool], Any]]] = {
    "count": lambda pool: pool.getconn().execute("SELECT count(*) FROM customers").fetchone(),
}
"""Small reports by name."""


class NoSuchCustomer(LookupError):
    """There is no customer of this number."""


def timed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator that would measure."""

    @functools.wraps(function)
    def timing(*args: Any) -> Any:
        return function(*args)

    return timing


def with_connection(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator that gives a connection; it forgets it where the function raises."""

    @functools.wraps(function)
    def wrapper(pool: Pool, *args: Any) -> Any:
        connection = pool.getconn()
        result = function(connection, *args)
        pool.putconn(connection)
        return result

    return wrapper


@with_connection
def customer_name(connection: Any, number: int) -> str:
    """Raises where there is no such customer."""
    row = connection.execute("SELECT name FROM customers WHERE id = %s", [number]).fetchone()
    if row is None:
        raise NoSuchCustomer(number)
    return str(row[0])


@with_connection
def slow_count(connection: Any, work: Callable[[], None]) -> Any:
    """Takes its time."""
    work()
    return connection.execute("SELECT count(*) FROM customers").fetchone()


class CustomerRepository:
    """Who buys."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def find(self, number: int) -> Any:
        """Forgets the connection where there is no such customer."""
        connection = self.pool.getconn()
        row = connection.execute("SELECT name FROM customers WHERE id = %s", [number]).fetchone()
        if row is None:
            return None
        self.pool.putconn(connection)
        return row[0]

    def get(self, number: int) -> Any:
        """Has two exits, and only the happy one gives back."""
        connection = self.pool.getconn()
        row = connection.execute("SELECT name FROM customers WHERE id = %s", [number]).fetchone()
        if row is None:
            raise NoSuchCustomer(number)
        self.pool.putconn(connection)
        return row[0]

    def get_carefully(self, number: int) -> Any:
        """Has two exits, and each gives back for itself."""
        connection = self.pool.getconn()
        row = connection.execute("SELECT name FROM customers WHERE id = %s", [number]).fetchone()
        if row is None:
            self.pool.putconn(connection)
            raise NoSuchCustomer(number)
        self.pool.putconn(connection)
        return row[0]

    def summary(self, work: Callable[[], None] | None = None) -> Any:
        """Connects in a nested function, and gives back only after some work."""
        connection: Any = None

        def connect() -> None:
            nonlocal connection
            connection = self.pool.getconn()

        connect()
        rows = connection.execute("SELECT name FROM customers").fetchall()
        if work is not None:
            work()
            self.pool.putconn(connection)
        return rows

    @timed
    def count(self) -> Any:
        """Forgets to give back."""
        return self.pool.getconn().execute("SELECT count(*) FROM customers").fetchone()

    @staticmethod
    def exists(pool: Pool, number: int) -> bool:
        """Forgets to give back."""
        cursor = pool.getconn().execute("SELECT 1 FROM customers WHERE id = %s", [number])
        return cursor.fetchone() is not None


@dataclass(slots=True)
class Invoices:
    """What customers owe."""

    pool: Pool
    table: str = "customers"

    def total(self) -> Any:
        """Forgets to give back."""
        connection = self.pool.getconn()
        return connection.execute(f"SELECT count(*) FROM {self.table}").fetchone()


def select_all(pool: Pool, table: str) -> Any:
    """Forgets to give back."""
    connection = pool.getconn()
    return connection.execute(f"SELECT * FROM {table}").fetchall()


def names_of_shards(shards: Iterable[Pool]) -> Any:
    """Forgets to give back what a comprehension has acquired."""
    return [shard.getconn().execute("SELECT name FROM customers").fetchall() for shard in shards]


def copy_shards(shards: list[Pool], work: Callable[[], None]) -> None:
    """Holds a connection of each shard for a while; a comprehension and a generator acquire them."""
    sources = [shard.getconn() for shard in shards]
    targets = tuple(shard.getconn() for shard in shards)
    work()
    for shard, source, target in zip(shards, sources, targets, strict=True):
        shard.putconn(source)
        shard.putconn(target)


def early_return(stage: Stage) -> None:
    """No such customer: it returns between acquire and release."""
    repository = CustomerRepository(stage.pool())
    stage.fact()
    repository.find(999)


def two_exits(stage: Stage) -> None:
    """One exit gives back, the other does not; the error of that one is kept."""
    repository = CustomerRepository(stage.pool())
    repository.get(1)
    try:
        repository.get(999)
    except NoSuchCustomer as error:
        recent_errors.append(error)
    stage.fact()


def two_exits_that_give_back(stage: Stage) -> None:
    """Both exits give back; the error of one is kept."""
    repository = CustomerRepository(stage.pool())
    repository.get_carefully(1)
    try:
        repository.get_carefully(999)
    except NoSuchCustomer as error:
        recent_errors.append(error)


def under_a_decorator(stage: Stage) -> None:
    """A decorated method forgets; it is to blame, and not the decorator."""
    repository = CustomerRepository(stage.pool())
    stage.fact()
    repository.count()


def decorator_acquires_and_forgets(stage: Stage) -> None:
    """A decorator acquires, and forgets where the decorated function raises."""
    try:
        customer_name(stage.pool(), 999)
    except NoSuchCustomer as error:
        recent_errors.append(error)
    stage.fact()


def decorator_acquires_for_long(stage: Stage) -> None:
    """A decorator acquires for a function that takes long."""
    slow_count(stage.pool(), stage.wait)


def in_a_partial_function(stage: Stage) -> None:
    """Called through ``functools.partial``."""
    list_customers = functools.partial(select_all, stage.pool(), "customers")
    stage.fact()
    list_customers()


def in_a_lambda(stage: Stage) -> None:
    """A lambda in a table of reports forgets."""
    pool = stage.pool()
    stage.fact()
    REPORTS["count"](pool)


def in_a_comprehension(stage: Stage) -> None:
    """A comprehension drops each connection after use."""
    shards = [stage.pool()]
    stage.fact()
    names_of_shards(shards)


def comprehensions_give_back_late(stage: Stage) -> None:
    """What a comprehension and a generator expression acquire is used for a while, and given back."""
    copy_shards([stage.pool(), stage.pool(name="archive")], stage.wait)


def in_a_nested_function(stage: Stage) -> None:
    """A nested function acquires for the enclosing one, which forgets."""
    repository = CustomerRepository(stage.pool())
    stage.fact()
    repository.summary()


def nested_function_acquires_for_long(stage: Stage) -> None:
    """A nested function acquires and returns; the enclosing one gives back much later."""
    CustomerRepository(stage.pool()).summary(stage.wait)


def in_a_dataclass(stage: Stage) -> None:
    """A method of a dataclass with slots forgets."""
    invoices = Invoices(stage.pool())
    stage.fact()
    invoices.total()


def in_a_static_method(stage: Stage) -> None:
    """A static method forgets."""
    pool = stage.pool()
    stage.fact()
    CustomerRepository.exists(pool, 1)
