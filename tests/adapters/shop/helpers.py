"""Ways to wrap a pool such as many services have: each acquires for the function that uses it."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any


@contextmanager
def checkout(pool: Any) -> Iterator[Any]:
    """Correct."""
    connection = pool.getconn()
    try:
        yield connection
    finally:
        pool.putconn(connection)


@contextmanager
def careless_checkout(pool: Any) -> Iterator[Any]:
    """Releases only if the block ends well."""
    connection = pool.getconn()
    yield connection
    pool.putconn(connection)


@asynccontextmanager
async def async_checkout(pool: Any) -> AsyncIterator[Any]:
    """Correct."""
    connection = await pool.getconn()
    try:
        yield connection
    finally:
        await pool.putconn(connection)


@asynccontextmanager
async def careless_async_checkout(pool: Any) -> AsyncIterator[Any]:
    """Releases only if the block ends well."""
    connection = await pool.getconn()
    yield connection
    await pool.putconn(connection)


class Checkout:
    """Acquires where the ``with`` block begins, and releases where it ends."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool

    def __enter__(self) -> Any:
        self.connection = self.pool.getconn()
        return self.connection

    def __exit__(self, *_about: object) -> None:
        self.pool.putconn(self.connection)


class CarelessCheckout(Checkout):
    """Releases only if the block ends well."""

    def __exit__(self, kind: object = None, *_about: object) -> None:
        if kind is None:
            super().__exit__()


class AsyncCheckout:
    """The same for asyncio, careless."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool

    async def __aenter__(self) -> Any:
        self.connection = await self.pool.getconn()
        return self.connection

    async def __aexit__(self, kind: object, *_about: object) -> None:
        if kind is None:
            await self.pool.putconn(self.connection)


class UnitOfWork:
    """Acquires when it is made, and releases when it is told to."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self.connection = pool.getconn()

    def close(self) -> None:
        """Release."""
        self.pool.putconn(self.connection)


def get_db(pool: Any) -> Iterator[Any]:
    """A dependency as for a web framework, which forgets that it may never be resumed."""
    connection = pool.getconn()
    yield connection
    pool.putconn(connection)


def get_db_safely(pool: Any) -> Iterator[Any]:
    """A dependency that releases also when it is dropped."""
    connection = pool.getconn()
    try:
        yield connection
    finally:
        pool.putconn(connection)


def connect(pool: Any) -> Any:
    """Acquires, and leaves the rest to its caller."""
    return pool.getconn()


def connect_and_count(pool: Any) -> Any:
    """Leaves a cursor to its caller."""
    connection = pool.getconn()
    return connection.execute("SELECT count(*) FROM customers")


def give_to(take: Callable[[Any], None], pool: Any) -> None:
    """Acquires for whoever takes it."""
    take(pool.getconn())
