"""Applications by where their code is: installed into site-packages, or nowhere on the stack at all."""

from __future__ import annotations

import atexit
import importlib
import shutil
import sys
import tempfile
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from psycopg_pool import ConnectionPool

from tests.corpus.stage import Stage

_DATABASE: Final = '''
"""The lowest layer of acme_billing."""


def fetch_all(pool, statement):
    """Skips putconn when it raises."""
    connection = pool.getconn()
    rows = connection.execute(statement).fetchall()
    pool.putconn(connection)
    return rows
'''
_REPOSITORIES: Final = '''
"""The repositories of acme_billing."""

import time

from acme_billing.database import fetch_all


class InvoiceRepository:
    """Invoices, by customer."""

    def __init__(self, pool):
        self.pool = pool

    def list_invoices(self, customer):
        """Skips putconn when there is none."""
        connection = self.pool.getconn()
        rows = connection.execute("SELECT id, name FROM customers WHERE id = %s", (customer,)).fetchall()
        if not rows:
            return []
        self.pool.putconn(connection)
        return rows

    def print_invoices(self, seconds):
        """Gives back, after a while."""
        with self.pool.connection() as connection:
            time.sleep(seconds)
            return connection.execute("SELECT id, name FROM customers").fetchall()

    def sorted_by(self, column):
        """Leaves everything to the layer below."""
        return fetch_all(self.pool, f"SELECT id, name FROM customers ORDER BY {column}")
'''
_SERVICE: Final = '''
"""The nightly run of acme_billing."""

from psycopg import Error

from acme_billing.repositories import InvoiceRepository

errors = []


def bill(pool, customers):
    """Bill some customers."""
    invoices = InvoiceRepository(pool)
    return [invoices.list_invoices(customer) for customer in customers]


def print_all(pool, seconds):
    """Print what was billed."""
    return InvoiceRepository(pool).print_invoices(seconds)


def sort(pool, column):
    """Sort what was billed; a failure is kept for the summary."""
    try:
        return InvoiceRepository(pool).sorted_by(column)
    except Error as error:
        errors.append(error)
        return []
'''


def install() -> Any:
    """Install the application into a site-packages folder, and import its service."""
    home = tempfile.mkdtemp(prefix="acme-")
    atexit.register(shutil.rmtree, home)
    folder = Path(home, "site-packages")
    package = folder / "acme_billing"
    package.mkdir(parents=True)
    for name, source in (
        ("__init__", ""),
        ("database", _DATABASE),
        ("repositories", _REPOSITORIES),
        ("service", _SERVICE),
    ):
        (package / f"{name}.py").write_text(source, encoding="utf-8")
    sys.path.insert(0, str(folder))
    return importlib.import_module("acme_billing.service")


def installed_application(stage: Stage) -> None:
    """A function of an application that is installed into site-packages returns early."""
    service, pool = install(), stage.pool()
    service.bill(pool, [1, 2])
    stage.fact()
    service.bill(pool, [7])


def installed_application_at_work(stage: Stage) -> None:
    """A function of an application that is installed into site-packages takes its time."""
    service, pool = install(), stage.pool()
    service.bill(pool, [1, 2, 3])
    service.print_all(pool, 1.5)


def installed_application_with_named_repositories(stage: Stage) -> None:
    """The layer below the repositories keeps the connection; a pattern names the repositories' module."""
    service, pool = install(), stage.pool()
    service.sort(pool, "id")
    service.sort(pool, "nmae")
    stage.fact()


def installed_application_with_a_named_class(stage: Stage) -> None:
    """The same, with a pattern for what is in the repositories' module."""
    installed_application_with_named_repositories(stage)


def acquired_by_a_thread_itself(stage: Stage) -> None:
    """A thread's target is ``getconn``: somebody wanted to see whether the server is there."""
    pool = stage.pool()
    pool.wait()
    stage.fact()
    thread = threading.Thread(target=pool.getconn)
    thread.start()
    thread.join()


def acquired_by_a_worker_itself(stage: Stage) -> None:
    """A task is ``getconn``: somebody wanted to warm the pool up, and throws the connections away."""
    pool = stage.pool()
    pool.wait()
    with ThreadPoolExecutor(2) as executor:
        stage.fact()
        executor.submit(pool.getconn)


def taken_from_a_worker(stage: Stage) -> None:
    """A task is ``getconn``, with its time limit; its result is used for long and given back."""

    def acquire(executor: ThreadPoolExecutor, pool: ConnectionPool[Any]) -> Any:
        future: Future[Any] = executor.submit(pool.getconn)
        return future.result(timeout=5)

    pool = stage.pool()
    with ThreadPoolExecutor(1) as executor:
        connection = acquire(executor, pool)
        stage.wait()
        connection.execute("SELECT name FROM customers").fetchall()
        pool.putconn(connection)


def left_in_a_future(stage: Stage) -> None:
    """A task is ``getconn``; its result is taken late, when its thread has ended."""
    pool = stage.pool()
    with ThreadPoolExecutor(1) as executor:
        future = executor.submit(pool.getconn)
    stage.wait()
    pool.putconn(future.result())


def given_back_by_a_worker_itself(stage: Stage) -> None:
    """``putconn`` is the target of a thread that starts late."""
    pool = stage.pool()
    connection = pool.getconn()
    stage.wait()
    thread = threading.Thread(target=pool.putconn, args=(connection,))
    thread.start()
    thread.join()
