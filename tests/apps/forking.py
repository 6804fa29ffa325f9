# ruff: noqa: INP001, T201 - a program of its own, which prints
"""Forks with several threads running and a connection held, leaks in the child, and lets both end normally.

Its log lines begin with the process id. The parent's own holds become overdue; so does one of the child's.
"""

import faulthandler
import gc
import logging
import os
import sys
import threading
from typing import Any

import psycopg
from opentelemetry import trace
from psycopg_pool import ConnectionPool

import otel_connleak


def drop(pool: ConnectionPool) -> None:
    """Does not give its connection back."""
    pool.getconn().execute("SELECT 1")


def borrow(pool: ConnectionPool, into: list[object]) -> None:
    """Acquires for whoever has the list."""
    into.append(pool.getconn())


def hold_until_reported(dsn: str) -> None:
    """Holds a connection of its own until the watchdog of its process has said so."""
    with psycopg.connect(dsn):
        while not any("hold_until_reported" in str(leak) for leak in otel_connleak.leaks()):
            threading.Event().wait(0.02)


def use_pool_forever(pool: ConnectionPool, stop: threading.Event) -> None:
    """Keeps the locks of the pool, and ours, busy while the fork happens."""
    while not stop.is_set():
        with pool.connection():
            pass


def child(dsn: str) -> None:
    """What the child does: it must know nothing of its parent's holds, and watch its own."""
    faulthandler.dump_traceback_later(40, exit=True)  # A lock that was inherited locked shows itself.
    print(f"child {os.getpid()} inherits {len(otel_connleak.open_holds())} holds")
    with trace.get_tracer("forking").start_as_current_span("in the child"):
        with ConnectionPool(dsn, min_size=1, max_size=2, name="of the child") as pool:
            drop(pool)
        hold_until_reported(dsn)
    print(f"child {os.getpid()} ends with {len(otel_connleak.open_holds())} holds")


def hold_and_fork(pool: ConnectionPool) -> tuple[int, list[Any]]:
    """Fork while holding two connections; returns what ``os.fork`` does, and the parent's connections."""
    held: list[Any] = []
    borrow(pool, held)
    borrow(pool, held)
    pid = os.fork()
    if pid == 0:
        # Nobody in the child can reach the parent's connections any more; one of them is gone, one is not.
        gc.disable()
        cycle: list[object] = [held.pop()]
        cycle.append(cycle)
        held.clear()
    return pid, held


def parent(dsn: str) -> int:
    """Fork while connections are held and other threads are busy; returns the child's exit status."""
    stop = threading.Event()
    pool = ConnectionPool(dsn, min_size=3, max_size=5, name="of the parent", open=True)
    pool.wait()
    threads = [threading.Thread(target=use_pool_forever, args=(pool, stop)) for _ in range(2)]
    for thread in threads:
        thread.start()
    pid, held = hold_and_fork(pool)
    if pid == 0:
        child(dsn)
        sys.exit(0)  # An ordinary exit: handlers of `atexit` run in the child as well.
    stop.set()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    print(f"parent {os.getpid()} holds {len(otel_connleak.open_holds())}")
    for thread in threads:
        thread.join()
    for connection in held:
        pool.putconn(connection)
    pool.close()
    return status


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(process)d %(levelname)s %(message)s")
    print(f"parent {os.getpid()} starts")
    sys.exit(parent(os.environ["DSN"]))
