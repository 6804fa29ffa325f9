# ruff: noqa: INP001 - a program of its own
"""A WSGI application for gunicorn whose repository function leaks; log lines begin with the process id."""

import atexit
import json
import logging
import os
import time
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from psycopg_pool import ConnectionPool

import otel_connleak

logging.basicConfig(format="%(process)d %(levelname)s %(message)s")


@cache
def pool() -> ConnectionPool[Any]:
    """The pool of this worker, opened with its first request as psycopg_pool asks for."""
    pool = ConnectionPool(os.environ["DSN"], min_size=1, max_size=2, name="orders", open=True)
    atexit.register(pool.close)  # On Python 3.13 psycopg_pool waits for 20 s at exit otherwise.
    return pool


class CustomerRepository:
    """All access to customers."""

    def find_customer(self) -> None:
        """Does not give its connection back."""
        pool().getconn().execute("SELECT 1")


def wait_for_the_other_worker() -> None:
    """Answer only when two workers are answering, so that each of them gets one of two requests."""
    meeting = Path(os.environ["MEETING"])
    (meeting / str(os.getpid())).touch()
    deadline = time.monotonic() + 20
    while len(list(meeting.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)


def application(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """Leak a connection, and say which process did it and how many holds it found at its start."""
    found = len(otel_connleak.open_holds())
    wait_for_the_other_worker()
    CustomerRepository().find_customer()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"pid": os.getpid(), "inherited": found}).encode()]
