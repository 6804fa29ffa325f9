"""A pool as small as a pool can be, with its adapter's calls, for tests of the core that need no database.

Tests name ``tests.support`` as library modules, so nothing in this file is ever the owner of a hold, and what
`park` keeps is reached neither by an activation nor by a module of the application.
"""

import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from otel_connleak.connection import Facts, Pool, Tracked, Transaction
from otel_connleak.hold import Hold
from otel_connleak.reach import Reach, Reachability
from otel_connleak.registry import Registry
from otel_connleak.verbs import verb_of

SOURCE = "toy"
FACTS = Facts("toysql", "shop", "db.example", 5432, 4242)

_parked: list[object] = []


class Connection:
    """A connection that does nothing; its transaction status is whatever a test sets."""

    transaction = Transaction.NONE


class ToyPool:
    """Hands out a new connection each time.

    Args:
        registry: is told of each acquire and release, as by an adapter.
        name: the pool's name; None makes direct connections, which belong to no pool.
        maximum: what the pool says of its size.
        hint: how to give a connection back.
    """

    def __init__(
        self, registry: Registry, name: str | None = "orders", maximum: int = 5, hint: str = "use `with`"
    ) -> None:
        self._registry = registry
        self.record = Pool(name, lambda: (maximum, 0), hint) if name is not None else None

    def getconn(self) -> Connection:
        """Acquire for the caller."""
        connection = Connection()
        self._registry.acquire(SOURCE, connection, sys._getframe(1), self._track)
        return connection

    async def getconn_async(self) -> Connection:
        """Acquire for the coroutine that awaits this."""
        return self.getconn()

    def putconn(self, connection: Connection) -> None:
        """Release."""
        hold = self._registry.release(SOURCE, connection)
        if hold is not None:
            self._registry.released(hold)

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Acquire for the length of a ``with`` block."""
        connection = self.getconn()
        try:
            yield connection
        finally:
            self.putconn(connection)

    def execute(
        self,
        connection: Connection,
        statement: str,
        status: Transaction,
        error: BaseException | None = None,
    ) -> None:
        """A driver call with a statement, after which the driver's transaction status is ``status``."""
        hold = self._registry.hold_of(connection)
        assert hold is not None
        started = hold.busy_since = self._registry.clock()
        hold.verb, hold.statement = verb_of(statement), statement
        connection.transaction = status
        self._registry.called(hold, started, status, error)

    def hold_of(self, connection: Connection) -> Hold:
        """The open hold of a connection."""
        hold = self._registry.hold_of(connection)
        assert hold is not None
        return hold

    def _track(self, connection: Any) -> Tracked:
        return self._registry.track(connection, FACTS, lambda toy: toy.transaction, self.record)


class KeepingPool(ToyPool):
    """A pool that itself refers to what it has handed out, as psycopg2's, asyncpg's and aiomysql's do."""

    def __init__(self, registry: Registry, **options: Any) -> None:
        super().__init__(registry, **options)
        self.used: dict[int, Connection] = {}
        assert self.record is not None
        self.record.keeps = lambda connection: int(self.used.get(id(connection)) is connection)
        self.record.library = weakref.ref(self)

    def getconn(self) -> Connection:
        """Acquire for the caller."""
        connection = Connection()
        self.used[id(connection)] = connection
        self._registry.acquire(SOURCE, connection, sys._getframe(1), self._track)
        return connection

    def putconn(self, connection: Connection) -> None:
        """Release."""
        super().putconn(connection)
        del self.used[id(connection)]


def park(connection: object) -> None:
    """Keep a connection alive where nobody can reach it, for example as a traceback would."""
    _parked.append(connection)


def forget() -> None:
    """Let go what was parked."""
    _parked.clear()


def calls(function: Callable[[], object]) -> object:
    """Call a function, as a library calls back into the application."""
    return function()


@contextmanager
def in_other_thread(function: Callable[[Callable[[], None]], object]) -> Iterator[None]:
    """Run ``function`` in a thread for the length of a ``with`` block.

    The block begins when the function calls what it is given, which returns when the block ends.
    """
    reached, leave = threading.Event(), threading.Event()

    def wait() -> None:
        reached.set()
        leave.wait()

    def run() -> None:
        try:
            function(wait)
        finally:
            reached.set()

    thread = threading.Thread(target=run)
    thread.start()
    reached.wait()
    try:
        yield
    finally:
        leave.set()
        thread.join()


@contextmanager
def worker() -> Iterator[Callable[..., None]]:
    """One thread for the length of a ``with`` block, which is given what calls a function in it."""
    with ThreadPoolExecutor(1) as executor:
        yield lambda function, *arguments: executor.submit(function, *arguments).result()


def parked() -> tuple[int, weakref.ref[Connection]]:
    """A connection that is alive, and that nobody can reach: its identity, and a weak reference to it."""
    connection = Connection()
    park(connection)
    return id(connection), weakref.ref(connection)


def ask(reach: Reachability, identity: int, **how: Any) -> Reach:
    """Ask in another thread, as the watchdog does."""
    answers: list[Reach] = []

    def run() -> None:
        answers.append(reach.who({identity: (0, None)}, **how)[identity])

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return answers[0]
