# ruff: noqa: INP001 - a program of its own
"""Ends while connections are held: by nobody who could release them, by module state, by a daemon thread."""

import gc
import logging
import os
import sys
import threading
from typing import Any

from psycopg_pool import ConnectionPool

from otel_connleak import ConnLeakInstrumentor

state: dict[str, Any] = {}


class Cycle:
    """Keeps something, and itself: only the garbage collector can free it."""

    def __init__(self, kept: Any) -> None:
        self.kept = kept
        self.itself = self


def keep(pool: ConnectionPool[Any]) -> None:
    """Leave a connection where nobody can release it."""
    Cycle(pool.getconn())


def drop(pool: ConnectionPool[Any]) -> None:
    """Drop a connection: that is reported at once."""
    pool.getconn()


def keep_for_ever(pool: ConnectionPool[Any]) -> None:
    """Keep the one connection of the process in module state."""
    state["connection"] = pool.getconn()


def serve(pool: ConnectionPool[Any], serving: threading.Event) -> None:
    """Hold a connection for as long as the process lives."""
    with pool.connection():
        serving.set()
        threading.Event().wait()


def main() -> None:
    """Hold connections in all of these ways, and end; with the argument "stopped" no longer instrumented."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    gc.disable()
    instrumentor = ConnLeakInstrumentor()
    instrumentor.instrument()
    serving = threading.Event()
    with ConnectionPool(os.environ["DSN"], min_size=1, max_size=4, name="orders", open=True) as pool:
        keep(pool)
        drop(pool)
        keep_for_ever(pool)
        threading.Thread(target=serve, args=(pool, serving), daemon=True).start()
        serving.wait()
    if "stopped" in sys.argv:
        instrumentor.uninstrument()


if __name__ == "__main__":
    main()
