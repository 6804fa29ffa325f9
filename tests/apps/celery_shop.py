# ruff: noqa: INP001 - a program of its own
"""A worker of a shop on Celery, whose processes have a pool each: correct tasks, and some that leak."""

import os
import time
from typing import Any

from celery import Celery
from celery.signals import worker_process_init
from psycopg_pool import ConnectionPool

FOLDER = os.environ["BROKER"]
SLOW = float(os.environ["SLOW"])

app = Celery("celery_shop", broker="filesystem://", backend=f"file://{FOLDER}/results")
app.conf.update(
    broker_transport_options={
        "data_folder_in": f"{FOLDER}/queue",
        "data_folder_out": f"{FOLDER}/queue",
        "control_folder": f"{FOLDER}/control",
    },
    worker_hijack_root_logger=False,
)
pools: list[ConnectionPool[Any]] = []


class Cycle:
    """Keeps something alive as an exception's traceback does: until the garbage collector comes by."""

    def __init__(self, kept: object) -> None:
        self.kept = kept
        self.cycle = self


@worker_process_init.connect
def open_pool(**_: object) -> None:
    """Each process has a pool of its own."""
    pools.append(ConnectionPool(os.environ["DSN"], min_size=1, max_size=8, name="orders", open=True))


class OrderRepository:
    """Reads the customers of orders."""

    def names(self) -> list[str]:
        """Correct."""
        with pools[0].connection() as connection:
            return [str(name) for (name,) in connection.execute("SELECT name FROM customers")]

    def slowly(self) -> int:
        """Correct: takes its time."""
        with pools[0].connection() as connection:
            time.sleep(SLOW)
            return len(connection.execute("SELECT name FROM customers").fetchall())

    def find(self) -> int:
        """Does not give the connection back when there is no such order."""
        connection = pools[0].getconn()
        Cycle(connection)
        if connection.execute("SELECT id FROM customers WHERE id = 0").fetchone() is None:
            raise LookupError("no such order")
        pools[0].putconn(connection)
        return 1

    def forget(self) -> int:
        """Does not give the connection back."""
        return len(pools[0].getconn().execute("SELECT name FROM customers").fetchall())


@app.task
def names() -> list[str]:
    """Correct."""
    return OrderRepository().names()


@app.task
def slowly() -> int:
    """Correct."""
    return OrderRepository().slowly()


@app.task
def find() -> int:
    """Fails, and what it calls leaks."""
    return OrderRepository().find()


@app.task
def forget() -> int:
    """Calls what leaks."""
    return OrderRepository().forget()
