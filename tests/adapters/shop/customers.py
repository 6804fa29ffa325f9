"""A repository over any library of the contract, once for functions and once for coroutines."""

import asyncio
from collections.abc import Callable
from typing import Any

from .keeping import Cycle

COUNT = "SELECT count(*) FROM customers"


class NoSuchCustomer(Exception):
    """The client asked for a customer who is not there."""


class Customers:
    """Correct methods, and methods that do not release what they have acquired.

    Args:
        library: gives ``acquire`` and ``release``, the library's own functions, and ``execute``.
    """

    def __init__(self, library: Any) -> None:
        self.library = library

    def list_customers(self) -> None:
        """Correct."""
        connection = self.library.acquire()
        self.library.execute(connection, COUNT)
        self.library.release(connection)

    def inspect(self, question: Callable[[Any], object]) -> object:
        """Correct; asks a question about the connection while it is held."""
        connection = self.library.acquire()
        try:
            return question(connection)
        finally:
            self.library.release(connection)

    def fail(self) -> None:
        """Correct: releases on the exception path."""
        connection = self.library.acquire()
        try:
            raise NoSuchCustomer
        finally:
            self.library.release(connection)

    def fail_and_drop(self) -> None:
        """Does not release on the exception path."""
        connection = self.library.acquire()
        if connection is not None:
            raise NoSuchCustomer
        self.library.release(connection)

    def answer(self) -> int:
        """Makes an answer of the exception, as every web framework does."""
        try:
            self.fail_and_drop()
        except NoSuchCustomer:
            return 404
        return 200

    def drop(self, question: Callable[[Any], object] = id) -> object:
        """Returns early; asks a question about the connection before."""
        return question(self.library.acquire())

    def keep(self) -> None:
        """Returns early, and the connection stays alive in a reference cycle."""
        Cycle(self.library.acquire())

    def keep_in_transaction(self, question: Callable[[Any], object]) -> object:
        """The same with an open transaction; asks a question about the connection before."""
        connection = self.library.acquire()
        self.library.execute(connection, COUNT)
        Cycle(connection)
        return question(connection)

    def think(self, wait: Callable[[], object]) -> None:
        """Releases late: waits in between, in a transaction."""
        connection = self.library.acquire()
        self.library.execute(connection, COUNT)
        wait()
        self.library.release(connection)

    def lend(self, take: Callable[[Any], object]) -> None:
        """Gives the connection to somebody else, who releases it."""
        take(self.library.acquire())

    def release(self, connection: Any) -> None:
        """Release what somebody else has acquired."""
        self.library.release(connection)

    def release_twice(self) -> None:
        """Releases once too often."""
        connection = self.library.acquire()
        self.library.release(connection)
        self.library.release(connection)

    def be_refused(self) -> None:
        """Asks for a connection that the library cannot give."""
        self.library.refuse()


class AsyncCustomers:
    """The same as `Customers` for a library whose functions are coroutine functions."""

    def __init__(self, library: Any) -> None:
        self.library = library

    async def list_customers(self) -> None:
        """Correct."""
        connection = await self.library.acquire()
        await self.library.execute(connection, COUNT)
        await self.library.release(connection)

    async def inspect(self, question: Callable[[Any], object]) -> object:
        """Correct; asks a question about the connection while it is held."""
        connection = await self.library.acquire()
        try:
            return question(connection)
        finally:
            await self.library.release(connection)

    async def fail(self) -> None:
        """Correct: releases on the exception path."""
        connection = await self.library.acquire()
        try:
            raise NoSuchCustomer
        finally:
            await self.library.release(connection)

    async def fail_and_drop(self) -> None:
        """Does not release on the exception path."""
        connection = await self.library.acquire()
        if connection is not None:
            raise NoSuchCustomer
        await self.library.release(connection)

    async def answer(self) -> int:
        """Makes an answer of the exception, as every web framework does."""
        try:
            await self.fail_and_drop()
        except NoSuchCustomer:
            return 404
        return 200

    async def drop(self, question: Callable[[Any], object] = id) -> object:
        """Returns early; asks a question about the connection before."""
        return question(await self.library.acquire())

    async def keep(self) -> None:
        """Returns early, and the connection stays alive in a reference cycle."""
        Cycle(await self.library.acquire())

    async def keep_and_wait(self, acquired: asyncio.Event) -> None:
        """Waits for ever, with the connection in a reference cycle."""
        Cycle(await self.library.acquire())
        acquired.set()
        await asyncio.Event().wait()

    async def keep_in_transaction(self, question: Callable[[Any], object]) -> object:
        """The same with an open transaction; asks a question about the connection before."""
        connection = await self.library.acquire()
        await self.library.execute(connection, COUNT)
        Cycle(connection)
        return question(connection)

    async def think(self, wait: Callable[[], object]) -> None:
        """Releases late: waits in between, in a transaction, while the event loop goes on."""
        connection = await self.library.acquire()
        await self.library.execute(connection, COUNT)
        await asyncio.to_thread(wait)
        await self.library.release(connection)

    async def lend(self, take: Callable[[Any], object]) -> None:
        """Gives the connection to somebody else, who releases it."""
        take(await self.library.acquire())

    async def release(self, connection: Any) -> None:
        """Release what somebody else has acquired."""
        await self.library.release(connection)

    async def release_twice(self) -> None:
        """Releases once too often."""
        connection = await self.library.acquire()
        await self.library.release(connection)
        await self.library.release(connection)

    async def be_refused(self) -> None:
        """Asks for a connection that the library cannot give."""
        await self.library.refuse()
