# ruff: noqa: INP001 - a program of its own
"""A shop on Flask and SQLAlchemy's scoped_session: correct views, and views that leak."""

import os
import threading
import time
from collections.abc import Iterator
from typing import Any

from flask import Flask, Response, abort, stream_with_context
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import create_engine, text
from sqlalchemy.orm import scoped_session, sessionmaker

SLOW = float(os.environ["SLOW"])

engine = create_engine(
    "postgresql+psycopg://", connect_args=conninfo_to_dict(os.environ["DSN"]), pool_size=10
)
session = scoped_session(sessionmaker(engine))
app = Flask(__name__)


class Cycle:
    """Keeps something alive as an exception's traceback does: until the garbage collector comes by."""

    def __init__(self, kept: object) -> None:
        self.kept = kept
        self.cycle = self


@app.teardown_appcontext
def remove_session(_error: BaseException | None) -> None:
    """Close the session of the request, whatever happened."""
    session.remove()


class CustomerRepository:
    """Reads the customers with the session of the request."""

    def names(self) -> list[str]:
        """All names."""
        return list(session.scalars(text("SELECT name FROM customers")).all())

    def count(self) -> int:
        """How many there are."""
        found: int = session.execute(text("SELECT count(*) FROM customers")).scalar_one()
        return found

    def search(self) -> list[str]:
        """With a connection of its own, which is not closed."""
        connection = engine.connect()
        Cycle(connection)
        return list(connection.scalars(text("SELECT name FROM customers")).all())

    def report(self) -> list[Any]:
        """With a session of its own, which is not closed, and soon collected."""
        careless = sessionmaker(engine)()
        return list(careless.execute(text("SELECT name FROM customers")).scalars())


@app.get("/customers")
def customers() -> list[str]:
    """Correct."""
    return CustomerRepository().names()


@app.get("/slow")
def slow() -> str:
    """Correct: takes its time with an open session, after the repository's function has returned."""
    count = CustomerRepository().count()
    time.sleep(SLOW)
    return str(count)


@app.get("/nobody")
def nobody() -> str:
    """Correct: an exception leaves the view, and the session is removed."""
    CustomerRepository().count()
    abort(404)


@app.get("/export")
def export() -> Response:
    """Correct: the session of the request lives as long as the stream does."""

    def lines() -> Iterator[str]:
        for name in session.scalars(text("SELECT name FROM customers"), execution_options={"yield_per": 1}):
            yield f"{name}\n"
            time.sleep(SLOW / 3)

    return Response(stream_with_context(lines()))


def send_letters() -> None:
    """Correct: a thread that outlives the request, with a session of its own."""
    with sessionmaker(engine)() as letters:
        letters.execute(text("SELECT name FROM customers"))
        time.sleep(SLOW)


@app.get("/letters")
def letters() -> str:
    """Correct."""
    threading.Thread(target=send_letters).start()
    return "soon"


@app.get("/leak/connection")
def search() -> list[str]:
    """Calls what leaks."""
    return CustomerRepository().search()


@app.get("/leak/session")
def report() -> list[str]:
    """Calls what leaks."""
    return CustomerRepository().report()


def forget_session() -> None:
    """A thread that uses the scoped session, and ends without removing it."""
    session.execute(text("SELECT name FROM customers"))


@app.get("/leak/thread")
def forget() -> str:
    """Starts what leaks."""
    thread = threading.Thread(target=forget_session)
    thread.start()
    thread.join()
    return "done"
