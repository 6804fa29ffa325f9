# ruff: noqa: INP001, T201 - a program of its own, which prints
"""A service that holds connections, and can be asked for them meanwhile; in one of several ways.

It says ``ready`` with its process id when it holds them. It ends when it reads a line, unless it is stuck.
"""

import asyncio
import gc
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool, ConnectionPool

import otel_connleak

kept: list[tuple[ConnectionPool[Any], Any]] = []


def rename_customer(pool: ConnectionPool[Any], name: str) -> None:
    """Leaves its transaction open, with a write in it."""
    connection = pool.getconn()
    kept.append((pool, connection))
    connection.execute("UPDATE customers SET name = %s WHERE id = 1", [name])


def list_customers(pool: ConnectionPool[Any]) -> None:
    """Does not give its connection back."""
    connection = pool.getconn()
    kept.append((pool, connection))
    connection.execute("SELECT name FROM customers WHERE name <> 'secret'").fetchall()
    connection.rollback()


def hold_two() -> None:
    """Hold two connections of a pool, one of them with a transaction."""
    pool: ConnectionPool[Any] = ConnectionPool(
        os.environ["DSN"], min_size=1, max_size=3, name="orders", open=True
    )
    list_customers(pool)
    rename_customer(pool, "somebody")


def ready(process: str = "") -> None:
    """Say that it can be asked."""
    print(f"ready {process}{os.getpid()}", flush=True)


def end() -> None:
    """Give everything back."""
    pool = kept[0][0]
    for _, connection in kept:
        connection.rollback()
        pool.putconn(connection)
    kept.clear()
    pool.close()


def wait() -> None:
    """Hold them until a line is read."""
    hold_two()
    ready()
    sys.stdin.readline()
    end()


def stuck() -> None:
    """Wait for a lock in the main thread, for ever."""
    hold_two()
    lock = threading.Lock()
    lock.acquire()
    ready()
    lock.acquire()


def uninstrument() -> None:
    """Stop the instrumentation at the first line, end at the second."""
    hold_two()
    ready()
    sys.stdin.readline()
    otel_connleak.ConnLeakInstrumentor().uninstrument()
    print("uninstrumented", [thread.name for thread in threading.enumerate()], flush=True)
    sys.stdin.readline()
    end()


def fork() -> None:
    """Hold two, and another one in a child, which waits for the same line."""
    hold_two()
    pid = os.fork()
    if pid == 0:
        kept.clear()
        with psycopg.connect(os.environ["DSN"]) as connection:
            connection.execute("SELECT 1")
            ready("child ")
            sys.stdin.readline()
        sys.exit(0)
    ready("parent ")
    os.waitpid(pid, 0)
    end()


def daemonize() -> None:
    """Close every descriptor, as a program does that makes itself a daemon, and then hold some."""
    os.closerange(3, 256)
    taken = [os.dup(0) for _ in range(10)]
    pid = os.fork()
    if pid == 0:
        gc.collect()  # what of ours is left must not close any; to ask a closed one raises
        os._exit(sum(not os.get_inheritable(each) for each in taken) - len(taken))
    assert os.waitpid(pid, 0)[1] == 0
    wait()
    for each in taken:
        os.close(each)


async def read_slowly(pool: AsyncConnectionPool[Any]) -> None:
    """Is busy until it is cancelled."""
    async with pool.connection() as connection:
        await connection.execute("SELECT pg_sleep(600)")


async def think(pool: AsyncConnectionPool[Any], event: asyncio.Event) -> None:
    """Holds a connection while it does something else."""
    async with pool.connection() as connection:
        await connection.set_autocommit(True)
        await connection.execute("SELECT name FROM customers")
        event.set()
        await asyncio.Event().wait()


async def serve() -> None:
    """Two tasks with a connection each, while the loop turns."""
    thinks = asyncio.Event()
    async with AsyncConnectionPool(os.environ["DSN"], min_size=2, name="orders", open=False) as pool:
        tasks = [
            asyncio.create_task(think(pool, thinks), name="a thinker"),
            asyncio.create_task(read_slowly(pool), name="a reader"),
        ]
        await thinks.wait()
        while not any(hold.busy_for for hold in otel_connleak.open_holds()):  # noqa: ASYNC110 -- sets no event
            await asyncio.sleep(0.01)
        ready()
        await asyncio.to_thread(sys.stdin.readline)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def application(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """A WSGI application that leaks with each request, and says which process did it."""
    hold_two()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"pid": os.getpid()}).encode()]


WAYS: dict[str, Callable[[], object]] = {
    "wait": wait,
    "stuck": stuck,
    "uninstrument": uninstrument,
    "fork": fork,
    "daemonize": daemonize,
    "asyncio": lambda: asyncio.run(serve()),
}

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    WAYS[sys.argv[1]]()
