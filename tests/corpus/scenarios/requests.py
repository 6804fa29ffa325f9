"""A web shop: sessions and connections that live as long as a request, longer, or for too long."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
from opentelemetry import context, trace
from psycopg_pool import ConnectionPool

from tests.corpus.scenarios.database import fetch_all
from tests.corpus.stage import Stage

type Pool = ConnectionPool[Any]

tracer = trace.get_tracer("shop.web")
recent_errors: deque[Exception] = deque(maxlen=20)
"""The last errors, for a status page: their tracebacks keep what was in the functions they left."""


class Session:
    """Connects at the first query, like the session of an object-relational mapper."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._connection: Any = None

    def begin(self) -> None:
        """Connect now."""
        self._ensure()

    def query(self, statement: str) -> list[Any]:
        """The rows of a statement."""
        self._ensure()
        rows: list[Any] = self._connection.execute(statement).fetchall()
        return rows

    def close(self) -> None:
        """Give the connection back."""
        if self._connection is not None:
            self._pool.putconn(self._connection)

    def _ensure(self) -> None:
        if self._connection is None:
            self._connection = self._pool.getconn()


class CustomerRepository:
    """Uses the session of the request."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def names(self) -> list[Any]:
        """All names."""
        return self.session.query("SELECT name FROM customers")

    def count(self) -> list[Any]:
        """How many there are."""
        return self.session.query("SELECT count(*) FROM customers")


class ReportRepository:
    """Takes connections from the pool itself."""

    shared: Any = None
    """One connection for the reports of all requests."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def sorted_by(self, column: str) -> list[Any]:
        """Skips ``putconn`` when the query raises."""
        connection = self.pool.getconn()
        rows: list[Any] = connection.execute(f"SELECT name FROM customers ORDER BY {column}").fetchall()
        self.pool.putconn(connection)
        return rows

    def grouped_by(self, column: str) -> list[Any]:
        """Leaves everything to the layer below."""
        return fetch_all(self.pool, f"SELECT {column}, count(*) FROM customers GROUP BY {column}")

    def daily(self) -> list[Any]:
        """Connects for all requests at the first one."""
        if ReportRepository.shared is None:
            ReportRepository.shared = self.pool.getconn()
        rows: list[Any] = ReportRepository.shared.execute("SELECT count(*) FROM customers").fetchall()
        ReportRepository.shared.rollback()
        return rows


class NameStream:
    """The body of a response: the server iterates over it and closes it when the handler is long over."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def start(self) -> None:
        """Run the query."""
        self._connection = self._pool.getconn()
        self._rows = self._connection.execute("SELECT name FROM customers")

    def __iter__(self) -> Iterator[bytes]:
        for (name,) in self._rows:
            yield name.encode()

    def close(self) -> None:
        """Called by the server at the end."""
        self._pool.putconn(self._connection)


def get_session(pool: Pool) -> Iterator[Session]:
    """A dependency of a request."""
    session = Session(pool)
    try:
        yield session
    finally:
        session.close()


def serve[Response](path: str, handler: Callable[[], Response]) -> Response | None:
    """Answer one request, as a framework does: a root span, and no exception leaves it."""
    with tracer.start_as_current_span(f"GET {path}", context.Context(), trace.SpanKind.SERVER):
        try:
            return handler()
        except psycopg.Error as error:
            recent_errors.append(error)
            return None


def session_of_a_dependency(stage: Stage) -> None:
    """A request of several graces; functions of the repository use its session and return."""
    pool = stage.pool()

    def handle() -> None:
        dependency = get_session(pool)
        customers = CustomerRepository(next(dependency))
        try:
            customers.names()
            stage.wait()
            customers.count()
        finally:
            next(dependency, None)

    serve("/customers", handle)


def session_outlives_the_trace(stage: Stage) -> None:
    """A session opened by a call of its own, kept deep in a structure, closed after the trace has ended."""
    with tracer.start_as_current_span("request"):
        session = Session(stage.pool())
        session.begin()
    state = {"sessions": [session]}
    del session
    stage.wait()
    state["sessions"][0].close()


def response_is_streamed(stage: Stage) -> None:
    """The handler has returned and its span has ended; the server still sends the rows, and then closes."""
    pool = stage.pool()

    def handle() -> NameStream:
        stream = NameStream(pool)
        stream.start()
        return stream

    body = serve("/names", handle)
    assert body is not None
    with contextlib.closing(body):
        for _ in body:
            stage.wait(1.5)


def handed_to_a_background_thread(stage: Stage) -> None:
    """The request ends; a thread goes on with its connection and gives it back."""
    pool = stage.pool()

    def send_mail(connection: Any) -> None:
        stage.wait()
        connection.execute("SELECT name FROM customers").fetchall()
        pool.putconn(connection)

    def handle() -> threading.Thread:
        connection = pool.getconn()
        connection.execute("SELECT id FROM customers").fetchall()
        thread = threading.Thread(target=send_mail, args=(connection,))
        thread.start()
        return thread

    thread = serve("/orders", handle)
    assert thread is not None
    thread.join()


def background_thread_of_its_trace(stage: Stage) -> None:
    """The request ends; a thread that belongs to its trace has acquired for itself and goes on."""
    pool = stage.pool()
    started = threading.Event()

    def send_mail(parent: context.Context) -> None:
        context.attach(parent)
        with tracer.start_as_current_span("send mail"), pool.connection() as connection:
            started.set()
            stage.wait()
            connection.execute("SELECT name FROM customers").fetchall()

    def handle() -> threading.Thread:
        thread = threading.Thread(target=send_mail, args=(context.get_current(),))
        thread.start()
        started.wait()
        return thread

    thread = serve("/orders", handle)
    assert thread is not None
    thread.join()


def first_request_connects_for_all(stage: Stage) -> None:
    """The first request that needs it opens a connection which all later ones use."""
    reports = ReportRepository(stage.pool())
    serve("/reports/daily", reports.daily)
    stage.wait()
    serve("/reports/daily", reports.daily)


def error_outlives_the_request(stage: Stage) -> None:
    """A misspelt column; the framework keeps the error for a status page."""
    reports = ReportRepository(stage.pool())
    serve("/reports/sorted", lambda: reports.sorted_by("nmae"))
    stage.fact()


def error_outlives_an_unsampled_request(stage: Stage) -> None:
    """The same in a service that samples nothing."""
    error_outlives_the_request(stage)


def one_request_of_several(stage: Stage) -> None:
    """One thread answers request after request; one of them, in the middle, keeps its connection."""
    reports = ReportRepository(stage.pool())
    requests: queue.Queue[str | None] = queue.Queue()

    def work() -> None:
        while (column := requests.get()) is not None:
            serve(f"/reports/{column}", lambda column=column: reports.sorted_by(column))  # type: ignore[misc]  # mypy infers no type for a lambda with a default
            requests.task_done()

    worker = threading.Thread(target=work)
    worker.start()
    for column in ("name", "nmae"):
        requests.put(column)
    requests.join()
    stage.fact()
    for column in ("name", "id", "name"):
        requests.put(column)
    stage.wait(2)
    requests.put(None)
    worker.join()


def blamed_by_the_repository_setting(stage: Stage) -> None:
    """The layer below the repositories keeps the connection; the user has named the repositories."""
    reports = ReportRepository(stage.pool())
    serve("/reports/grouped", lambda: reports.grouped_by("nmae"))
    stage.fact()


def blamed_without_the_repository_setting(stage: Stage) -> None:
    """The same where the user has named nothing: the function that acquired is to blame."""
    blamed_by_the_repository_setting(stage)
