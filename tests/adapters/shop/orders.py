"""A repository that acquires through the helpers of another module."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from . import helpers
from .keeping import Cycle

type During = Callable[[], object]
"""Called while a connection is held."""


class OutOfStock(Exception):
    """There is nothing left."""


def suppressing(function: Callable[..., object], *args: Any) -> None:
    """Call a function that runs out of stock, as whoever answers the request does."""
    with contextlib.suppress(OutOfStock):
        function(*args)


class Orders:
    """All access to orders; most methods do something while they hold."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self.unit: helpers.UnitOfWork | None = None

    # --- with blocks ---------------------------------------------------------------------------------------

    def use(self, checkout: Callable[[Any], Any], during: During) -> None:
        """Correct, with any context manager."""
        with checkout(self.pool):
            during()

    def use_and_drop(self, checkout: Callable[[Any], Any]) -> None:
        """Leaves its ``with`` block by an exception; the connection is gone then."""
        with checkout(self.pool):
            raise OutOfStock

    def use_and_keep(self, checkout: Callable[[Any], Any]) -> None:
        """The same, and something keeps the connection."""
        with checkout(self.pool) as connection:
            Cycle(connection)
            raise OutOfStock

    def use_stack(self, checkout: Callable[[Any], Any], during: During) -> None:
        """Correct, through an `contextlib.ExitStack`."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(checkout(self.pool))
            during()

    def drop_stack(self, checkout: Callable[[Any], Any]) -> None:
        """Forgets the stack."""
        contextlib.ExitStack().enter_context(checkout(self.pool))

    def keep_stack(self, checkout: Callable[[Any], Any]) -> None:
        """Leaves the stack lying about."""
        stack = contextlib.ExitStack()
        stack.enter_context(checkout(self.pool))
        Cycle(stack)

    # --- units of work -------------------------------------------------------------------------------------

    def use_unit(self, during: During) -> None:
        """Correct."""
        unit = helpers.UnitOfWork(self.pool)
        during()
        unit.close()

    def drop_unit(self) -> None:
        """Forgets to close the unit of work."""
        helpers.UnitOfWork(self.pool)

    def keep_unit(self) -> None:
        """Leaves the unit of work lying about."""
        Cycle(helpers.UnitOfWork(self.pool))

    def start(self) -> None:
        """Makes a unit of work that `finish` closes."""
        self.unit = helpers.UnitOfWork(self.pool)

    def finish(self) -> None:
        """Closes the unit of work."""
        assert self.unit is not None
        self.unit.close()

    # --- returned by a helper ------------------------------------------------------------------------------

    def release_for_helper(self, during: During) -> None:
        """Correct: releases what the helper has returned."""
        connection = helpers.connect(self.pool)
        during()
        self.pool.putconn(connection)

    def drop_for_helper(self) -> None:
        """Does not release what the helper has returned."""
        helpers.connect(self.pool)

    def keep_for_helper(self) -> None:
        """The same, and something keeps the connection."""
        Cycle(helpers.connect(self.pool))

    def keep_cursor(self) -> None:
        """The same with a cursor, which carries its connection."""
        Cycle(helpers.connect_and_count(self.pool))

    def keep_carried(self, carry: Callable[[Any], Any]) -> None:
        """The same with something else that carries the connection."""
        Cycle(self.carried(carry))

    def carried(self, carry: Callable[[Any], Any]) -> Any:
        """Leaves what carries the connection to its caller."""
        return carry(self.pool.getconn())

    # --- generators ----------------------------------------------------------------------------------------

    def rows(self) -> Iterator[Any]:
        """Correct: holds while it is iterated over."""
        with self.pool.connection() as connection:
            yield from connection.execute("SELECT name FROM customers ORDER BY id")

    def drop_dependency(self, dependency: Callable[[Any], Iterator[Any]], during: During) -> None:
        """Takes the connection from a dependency generator, which is gone at once."""
        connection = next(dependency(self.pool))
        during()
        del connection

    def keep_dependency(self) -> None:
        """Leaves the generator and the connection lying about."""
        generator = helpers.get_db(self.pool)
        Cycle((generator, next(generator)))

    # --- several activations -------------------------------------------------------------------------------

    def descend(self, levels: int, leak_at: int, during: During, pids: list[int]) -> None:
        """Acquires at each level of a recursion, keeps the connection of one, and waits on the way back."""
        connection = self.pool.getconn()
        pids.append(connection.info.backend_pid)
        if levels > 1:
            self.descend(levels - 1, leak_at, during, pids)
        if levels == leak_at:
            Cycle(connection)
            return
        if levels > leak_at:
            during()
        self.pool.putconn(connection)

    def hold(self, during: During, *, leak: bool) -> int:
        """Keeps the connection if it is told to; says which one it was."""
        connection = self.pool.getconn()
        pid: int = connection.info.backend_pid
        during()
        if leak:
            Cycle(connection)
        else:
            self.pool.putconn(connection)
        return pid

    def fail_with_connection(self) -> None:
        """An exception leaves it; whoever keeps that exception keeps the connection."""
        connection = self.pool.getconn()
        if connection is not None:
            raise OutOfStock
        self.pool.putconn(connection)

    def hold_twice(self) -> None:
        """Acquires two connections and releases only the first."""
        first = self.pool.getconn()
        second = self.pool.getconn()
        self.pool.putconn(first)
        Cycle(second)


class AsyncOrders:
    """Access to orders for asyncio."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool

    async def use(self, checkout: Callable[[Any], Any], during: Callable[[], Any]) -> None:
        """Correct, with any asynchronous context manager."""
        async with checkout(self.pool):
            await during()

    async def use_and_keep(self, checkout: Callable[[Any], Any]) -> None:
        """Leaves its ``async with`` block by an exception, and something keeps the connection."""
        async with checkout(self.pool) as connection:
            Cycle(connection)
            raise OutOfStock

    async def use_and_drop(self, checkout: Callable[[Any], Any]) -> None:
        """The same, and the connection is gone then."""
        async with checkout(self.pool):
            raise OutOfStock

    async def answer(self, function: Callable[..., Any], *args: Any) -> None:
        """Call one of the above that runs out of stock, as whoever answers the request does."""
        with contextlib.suppress(OutOfStock):
            await function(*args)
