"""Functions of an application over an engine of SQLAlchemy."""

from typing import Any

from sqlalchemy import Connection, Engine, text

from .keeping import Cycle

ONE = text("SELECT 1")


def use(engine: Engine) -> Any:
    """Correct."""
    with engine.connect() as connection:
        return connection.execute(ONE).scalar_one()


def drop(engine: Engine) -> None:
    """Does not close its connection, of which nothing is left."""
    engine.raw_connection()


def keep(engine: Engine) -> None:
    """Does not close its connection, which stays alive in a reference cycle."""
    connection = engine.connect()
    connection.execute(ONE)
    Cycle(connection)


def end_session(engine: Engine, connection: Connection) -> None:
    """End the server's side of another connection on psycopg."""
    pid = connection.connection.driver_connection.info.backend_pid  # type: ignore[union-attr]  # psycopg's
    with engine.connect() as other:
        other.execute(text(f"SELECT pg_terminate_backend({pid})"))
