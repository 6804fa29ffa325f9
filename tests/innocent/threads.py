"""Synchronous code that keeps a connection beyond the function that acquired it, and gives it back later.

Each function takes a pool and a function that waits for longer than the grace.
"""

import contextlib
import contextvars
import functools
import queue
import threading
import types
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from opentelemetry import trace
from psycopg_pool import ConnectionPool

type Pool = ConnectionPool[Any]
type Wait = Callable[[], None]

tracer = trace.get_tracer("innocent")


class Session:
    """Connects at the first query, like the session of an object-relational mapper."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._connection: Any = None

    def begin(self) -> None:
        """Opens the session."""
        self._ensure()

    def query(self) -> Any:
        """A query of this session."""
        self._ensure()
        return self._connection.execute("SELECT 1").fetchone()

    def close(self) -> None:
        """Gives the connection back."""
        if self._connection is not None:
            self._pool.putconn(self._connection)

    def _ensure(self) -> None:
        if self._connection is None:
            self._connection = self._pool.getconn()


class UnitOfWork:
    """A context manager that hands out nothing: nobody but the ``with`` statement refers to it."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def __enter__(self) -> None:
        self._open()

    def __exit__(self, *_: object) -> None:
        self._pool.putconn(self._connection)

    def _open(self) -> None:
        self._connection = self._pool.getconn()


def session_of_a_request(pool: Pool, wait: Wait) -> None:
    """Functions of the repository use a session and return; the session lives as long as the request."""
    session = Session(pool)
    try:
        session.query()
        wait()
        session.query()
    finally:
        session.close()


def session_outlives_the_trace(pool: Pool, wait: Wait) -> None:
    """A session opened by a call of its own, kept deep in a structure, closed after the trace has ended."""
    with tracer.start_as_current_span("request"):
        session = Session(pool)
        session.begin()
    state = {"sessions": [session]}
    del session
    wait()
    state["sessions"][0].close()


def unit_of_work_without_a_name(pool: Pool, wait: Wait) -> None:
    """``with UnitOfWork(pool):`` keeps it on the value stack only."""
    with UnitOfWork(pool):
        with tracer.start_as_current_span("step"):
            pass
        wait()


def exit_stack(pool: Pool, wait: Wait) -> None:
    """The connection's context manager is entered into a stack that is closed later."""
    with contextlib.ExitStack() as outer:
        with tracer.start_as_current_span("step"):
            stack = contextlib.ExitStack()
            stack.enter_context(pool.connection())
            outer.push(stack)
        del stack
        wait()


def parked_in_a_queue(pool: Pool, wait: Wait) -> None:
    """A connection lies in a queue until a worker takes it."""
    parked: queue.Queue[Any] = queue.Queue()

    def park() -> None:
        parked.put(pool.getconn())

    park()
    wait()
    pool.putconn(parked.get())


def in_a_closure(pool: Pool, wait: Wait) -> None:
    """The function that gives it back is what keeps it."""

    def acquire() -> Callable[[], None]:
        connection = pool.getconn()
        return lambda: pool.putconn(connection)

    release = acquire()
    wait()
    release()


def in_a_context_variable(pool: Pool, wait: Wait) -> None:
    """A connection of the context, like that of a web framework's request."""
    variable: contextvars.ContextVar[Any] = contextvars.ContextVar("connection")

    def acquire() -> None:
        variable.set(pool.getconn())

    acquire()
    wait()
    pool.putconn(variable.get())


def connections(pool: Pool) -> Iterator[Any]:
    """A dependency that yields a connection."""
    connection = pool.getconn()
    try:
        yield connection
    finally:
        pool.putconn(connection)


def suspended_generator(pool: Pool, wait: Wait) -> None:
    """A generator waits at its ``yield``; only the generator is kept."""
    generators = [connections(pool)]
    next(generators[0])
    wait()
    assert next(generators[0], None) is None


def given_to_a_thread(pool: Pool, wait: Wait) -> None:
    """A thread gets the connection as its argument and gives it back long after the giver has returned."""

    def work(connection: Any) -> None:
        wait()
        pool.putconn(connection)

    def give() -> threading.Thread:
        thread = threading.Thread(target=work, args=(pool.getconn(),))
        thread.start()
        return thread

    give().join()


def from_a_thread_pool(pool: Pool, wait: Wait) -> None:
    """A worker's result is a connection; it is taken late, when the worker is long gone."""

    def acquire() -> Any:
        return pool.getconn()

    with ThreadPoolExecutor(1) as executor:
        future: Future[Any] = executor.submit(acquire)
    wait()
    pool.putconn(future.result())


def by_a_timer(pool: Pool, wait: Wait) -> None:
    """A timer gives it back."""
    done = threading.Event()

    def release(connection: Any) -> None:
        wait()
        pool.putconn(connection)
        done.set()

    def start() -> None:
        threading.Timer(0.01, release, [pool.getconn()]).start()

    start()
    assert done.wait(30)


def in_a_partial(pool: Pool, wait: Wait) -> None:
    """``functools.partial`` keeps it."""

    def acquire() -> Callable[[], None]:
        return functools.partial(pool.putconn, pool.getconn())

    release = acquire()
    wait()
    release()


class Slotted:
    """An object without a dictionary."""

    __slots__ = ("connection",)

    def __init__(self, connection: Any) -> None:
        self.connection = connection


def in_slots(pool: Pool, wait: Wait) -> None:
    """An object with slots keeps it."""

    def acquire() -> Slotted:
        return Slotted(pool.getconn())

    kept = acquire()
    wait()
    pool.putconn(kept.connection)


def nested_in_results(pool: Pool, wait: Wait) -> None:
    """It is returned in a namespace, a tuple and a dictionary."""

    def acquire() -> types.SimpleNamespace:
        return types.SimpleNamespace(pair=(1, {"connection": pool.getconn()}))

    kept = acquire()
    wait()
    pool.putconn(kept.pair[1]["connection"])


def in_an_iterator(pool: Pool, wait: Wait) -> None:
    """An iterator over one connection keeps it."""

    def acquire() -> Iterator[Any]:
        return iter([pool.getconn()])

    kept = acquire()
    wait()
    pool.putconn(next(kept))


SCENARIOS = [
    session_of_a_request,
    session_outlives_the_trace,
    unit_of_work_without_a_name,
    exit_stack,
    parked_in_a_queue,
    in_a_closure,
    in_a_context_variable,
    suspended_generator,
    given_to_a_thread,
    from_a_thread_pool,
    by_a_timer,
    in_a_partial,
    in_slots,
    nested_in_results,
    in_an_iterator,
]
