# ruff: noqa: INP001, T201 - a program of its own, which prints
"""A small service without a server: its arguments name the requests it answers, one after the other.

``python app.py find_customer keep`` calls these methods of the repository, each in a root span of its own, as
a web framework would. ``thread:keep`` calls one in a new thread. Its last word on standard output is "done".
"""

import gc
import logging
import os
import sys
import threading

from opentelemetry import trace
from psycopg_pool import ConnectionPool
from store.repositories import (  # type: ignore[import-not-found]  # found beside the script that runs
    CustomerRepository,
    NoSuchCustomer,
)


def answer(repository: CustomerRepository, request: str) -> None:
    """Answer one request; an error is the client's problem, as in every web framework."""
    with trace.get_tracer("service").start_as_current_span(f"GET /{request}"):
        try:
            getattr(repository, request)()
        except NoSuchCustomer as error:
            print(f"404 {error}")


def main() -> None:
    """Answer the requests on the command line."""
    if "APP_LOG_FORMAT" in os.environ:
        logging.basicConfig(level=logging.INFO, format=os.environ["APP_LOG_FORMAT"])
    gc.disable()  # What is kept in a reference cycle stays there until the end.
    with ConnectionPool(os.environ["DSN"], min_size=1, max_size=4, name="orders", open=True) as pool:
        pool.wait()
        repository = CustomerRepository(pool)
        for request in sys.argv[1:]:
            where, _, name = request.rpartition(":")
            if where == "thread":
                thread = threading.Thread(target=answer, args=(repository, name), name=f"thread-{name}")
                thread.start()
                thread.join()
            elif name == "pause":
                print("paused")
                input()
            else:
                answer(repository, name)
        print("done")


if __name__ == "__main__":
    main()
