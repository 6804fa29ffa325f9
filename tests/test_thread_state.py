"""A connection of a thread's own, in a `threading.local`, is a singleton of that thread."""

import threading
from typing import Any

import psycopg
import pytest

from tests.support.reports import GRACE, Reports
from tests.support.telemetry import Telemetry

LOCAL = threading.local()


def own_connection(dsn: str) -> psycopg.Connection[Any]:
    """What many services have: one connection for each worker thread, opened at its first use."""
    if not hasattr(LOCAL, "connection"):
        LOCAL.connection = psycopg.connect(dsn, autocommit=True)
    connection: psycopg.Connection[Any] = LOCAL.connection
    return connection


def hoard(dsn: str) -> None:
    """Opens a connection and another one, and keeps both for the thread."""
    LOCAL.hoard = []
    while len(LOCAL.hoard) < 2:
        LOCAL.hoard.append(psycopg.connect(dsn))


class Workers:
    """Threads that do one thing and then wait; leaving the ``with`` block ends them."""

    def __init__(self, work: Any, count: int) -> None:
        self._leave = threading.Event()
        self._done = threading.Barrier(count + 1)
        self._threads = [threading.Thread(target=self._run, args=(work,)) for _ in range(count)]

    def _run(self, work: Any) -> None:
        work()
        self._done.wait(30)
        self._leave.wait(60)
        for connection in [getattr(LOCAL, "connection", None), *getattr(LOCAL, "hoard", [])]:
            if connection is not None:
                connection.close()

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()
        self._done.wait(30)

    def __exit__(self, *_: object) -> None:
        self._leave.set()
        for thread in self._threads:
            thread.join(30)


@pytest.mark.parametrize("overdue_after", [GRACE, 600.0])
def test_one_for_each_thread(dsn: str, telemetry: Telemetry, overdue_after: float) -> None:
    """Three worker threads that each keep one idle connection are no leaks, also when that takes long."""
    with telemetry.instrumented(grace=GRACE, overdue_after=overdue_after):
        with Workers(lambda: own_connection(dsn).execute("SELECT 1"), 3):
            Reports(telemetry).none()
        Reports(telemetry).none()
        assert len(telemetry.spans("hold")) == 3


def test_a_second_one_of_the_same_thread(dsn: str, telemetry: Telemetry) -> None:
    """A thread that keeps a second connection from the same line while the first lies idle is reported."""
    with telemetry.instrumented(grace=GRACE, overdue_after=600.0):
        with Workers(lambda: hoard(dsn), 1):
            leak = Reports(telemetry).leak()
        assert leak.function.endswith("hoard")
        assert leak.certainty == "possible"
