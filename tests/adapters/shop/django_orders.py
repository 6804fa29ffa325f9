"""A repository over Django's connections, as its threads have them, and over its ``atomic`` blocks."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from django.db import connection, connections, transaction

from .keeping import Cycle

COUNT = "SELECT count(*) FROM customers"

type During = Callable[[], object]
"""Called while something is held."""


class OutOfStock(Exception):
    """There is nothing left."""


def query(sql: str = COUNT, using: str = "default") -> Any:
    """Run a query, on behalf of a repository function or of a view."""
    with connections[using].cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0]


def in_thread(function: Callable[..., object], *args: Any, name: str = "seller") -> None:
    """Run a function in a thread of its own, to its end."""
    thread = threading.Thread(target=function, args=args, name=name)
    thread.start()
    thread.join()


class Orders:
    """All access to orders. Django opens a connection for whoever is the first, and keeps it."""

    def count(self, using: str = "default") -> int:
        """Correct in a request: Django closes the connection when the request has ended."""
        with connections[using].cursor() as cursor:
            cursor.execute(COUNT)
            return int(cursor.fetchone()[0])

    def count_and_close(self) -> int:
        """Correct everywhere."""
        try:
            return self.count()
        finally:
            connection.close()

    # --- transactions --------------------------------------------------------------------------------------

    def ship(self, during: During = int) -> None:
        """Correct: does something in a transaction, after a query."""
        with transaction.atomic():
            query()
            during()

    def ship_later(self, during: During) -> None:
        """Correct: does something before the first query."""
        with transaction.atomic():
            during()

    def ship_in_parts(self, during: During) -> None:
        """Correct: a block within the block is a savepoint."""
        with transaction.atomic():
            query()
            with transaction.atomic():
                query()
            query()
            during()

    def fail(self) -> None:
        """Correct: rolls back."""
        with transaction.atomic():
            query()
            raise OutOfStock

    @transaction.atomic  # type: ignore[untyped-decorator] # Django has no types
    def pack(self, during: During = int) -> None:
        """Correct, by the decorator."""
        query()
        during()

    @transaction.atomic  # type: ignore[untyped-decorator] # Django has no types
    def pack_later(self, during: During) -> None:
        """Correct: something else runs the first query."""
        during()

    def ship_durably(self) -> None:
        """Is refused within another block."""
        with transaction.atomic(durable=True):
            query()

    def ship_with_stack(self, during: During) -> None:
        """Correct, through an `contextlib.ExitStack`."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(transaction.atomic())
            query()
            during()

    def ship_in_unit(self, during: During) -> None:
        """Correct, through a context manager of its own."""
        with unit_of_work():
            during()

    def ship_shared(self, block: Any, during: During) -> None:
        """Correct, with an object that others enter as well."""
        with block:
            query()
            during()

    def ship_and_notify(self, during: During) -> None:
        """Correct: does something else when the transaction has been committed."""
        with transaction.atomic():
            query()
            transaction.on_commit(during)

    def drop(self) -> None:
        """Never leaves the block."""
        transaction.atomic().__enter__()
        query()

    def keep(self) -> None:
        """The same, and something keeps the block."""
        block = transaction.atomic()
        block.__enter__()
        query()
        Cycle(block)

    def close_within(self) -> None:
        """Correct, if not wise: Django leaves the block without a connection."""
        with transaction.atomic():
            query()
            connection.close()

    def reconnect_and_fail(self) -> None:
        """The same, and fails with another connection, for which Django knows of no block."""
        with transaction.atomic():
            connection.close()
            connection.connect()
            query()
            raise OutOfStock


class Unit:
    """A unit of work that is begun and ended by hand."""

    def begin(self) -> None:
        """Enter a block that `end` leaves."""
        self.block = transaction.atomic()
        self.block.__enter__()
        query()

    def end(self) -> None:
        """Leave it."""
        self.block.__exit__(None, None, None)


@contextlib.contextmanager
def unit_of_work() -> Iterator[None]:
    """A transaction for whoever uses it."""
    with transaction.atomic():
        query()
        yield
