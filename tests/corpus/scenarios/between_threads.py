"""Connections that one thread acquires and another one gives back: through queues, arguments and timers."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

from tests.corpus.stage import Stage


def run(target: Callable[[], object]) -> None:
    """Run something in a thread of its own, to its end."""
    thread = threading.Thread(target=target)
    thread.start()
    thread.join()


def parked_in_a_queue(stage: Stage) -> None:
    """A connection lies in a queue until a worker takes it."""
    pool = stage.pool()
    parked: queue.Queue[Any] = queue.Queue()

    def park() -> None:
        parked.put(pool.getconn())

    park()
    stage.wait()
    pool.putconn(parked.get())


def parked_for_another_thread(stage: Stage) -> None:
    """The thread that parked a connection has ended; a worker that started long before takes it late."""
    pool = stage.pool()
    parked: queue.Queue[Any] = queue.Queue()
    open_for_business = threading.Event()

    def work() -> None:
        open_for_business.wait()
        connection = parked.get()
        connection.execute("SELECT name FROM customers").fetchall()
        pool.putconn(connection)

    worker = threading.Thread(target=work)
    worker.start()
    run(lambda: parked.put(pool.getconn()))
    stage.wait()
    open_for_business.set()
    worker.join()


def handed_on_through_a_queue(stage: Stage) -> None:
    """A reader hands connection and rows to an uploader, and ends; the uploader gives it back."""
    pool = stage.pool()
    batches: queue.Queue[tuple[Any, list[Any]]] = queue.Queue()

    def upload() -> None:
        connection, rows = batches.get()
        stage.wait()
        connection.execute("SELECT %s", (len(rows),))
        pool.putconn(connection)

    def read() -> None:
        connection = pool.getconn()
        batches.put((connection, connection.execute("SELECT name FROM customers").fetchall()))

    uploader = threading.Thread(target=upload)
    uploader.start()
    run(read)
    uploader.join()


def given_to_a_thread(stage: Stage) -> None:
    """A thread gets the connection as its argument and gives it back long after the giver has returned."""
    pool = stage.pool()

    def work(connection: Any) -> None:
        stage.wait()
        pool.putconn(connection)

    def give() -> threading.Thread:
        thread = threading.Thread(target=work, args=(pool.getconn(),))
        thread.start()
        return thread

    give().join()


def by_a_timer(stage: Stage) -> None:
    """A timer that is started by the acquiring function gives the connection back."""
    pool = stage.pool()
    done = threading.Event()

    def release(connection: Any) -> None:
        stage.wait()
        pool.putconn(connection)
        done.set()

    def start() -> None:
        threading.Timer(0.01, release, [pool.getconn()]).start()

    start()
    assert done.wait(30)


def by_a_timer_much_later(stage: Stage) -> None:
    """A lease: nobody uses the connection until the timer gives it back."""
    pool = stage.pool()
    done = threading.Event()

    def end_lease(connection: Any) -> None:
        pool.putconn(connection)
        done.set()

    def lease() -> None:
        connection = pool.getconn()
        connection.execute("SELECT pg_advisory_lock_shared(1)")
        threading.Timer(1.5, end_lease, [connection]).start()

    lease()
    assert done.wait(30)
