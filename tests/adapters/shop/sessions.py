"""Functions of an application over sessions of SQLAlchemy's object-relational mapper."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, ForeignKey, Row, select, text
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    relationship,
    scoped_session,
    sessionmaker,
)

from .keeping import Cycle

ONE = text("SELECT 1")
type Wait = Callable[[], object]
"""Waits for longer than the grace."""

scoped: dict[str, scoped_session[Session]] = {}
"""Module state of the application: a session for each thread, or for each request."""


class Base(DeclarativeBase):
    """The tables."""


class Customer(Base):
    """Has orders."""

    __tablename__ = "buyer"
    id: Mapped[int] = mapped_column(primary_key=True)
    orders: Mapped[list["Order"]] = relationship()


class Order(Base):
    """Is somebody's."""

    __tablename__ = "purchase"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey(Customer.id))


class Repository:
    """Uses the session that it is given."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def one(self) -> Any:
        """The first to need a connection."""
        return self.session.execute(ONE).scalar_one()

    def customers(self) -> Sequence[Customer]:
        """Objects whose orders have not been read."""
        return self.session.scalars(select(Customer)).all()

    def rows(self) -> Any:
        """Leaves rows to its caller, which are read from the connection."""
        return self.session.execute(ONE)


def count_orders(customer: Customer) -> int:
    """Reads the orders if they have not been read: it acquires, if the session has no connection then."""
    return len(customer.orders)


def serve(engine: Engine, wait: Wait) -> None:
    """Correct: one session for a request."""
    with Session(engine) as session:
        Repository(session).one()
        wait()


def serve_lazily(engine: Engine, wait: Wait) -> None:
    """Correct: reads what was not read when it is needed."""
    with Session(engine) as session:
        customers = Repository(session).customers()
        session.commit()
        wait()
        count_orders(customers[0])
        wait()


def serve_in_transaction(engine: Engine, wait: Wait) -> None:
    """Correct: with a savepoint."""
    with sessionmaker(engine).begin() as session, session.begin_nested():
        Repository(session).one()
        wait()


def write(engine: Engine, wait: Wait) -> None:
    """Correct: without sessions, with a savepoint."""
    with engine.begin() as connection, connection.begin_nested():
        connection.execute(ONE)
        wait()


def read_slowly(engine: Engine, wait: Wait) -> int:
    """Correct: reads a few rows, waits, and goes on."""
    with engine.connect().execution_options(yield_per=2) as connection:
        rows = connection.execute(select(Customer.id))
        next(rows)
        wait()
        return 1 + sum(1 for _ in rows)


def get_session(engine: Engine) -> Generator[Session, None, None]:
    """A dependency as for a web framework."""
    with Session(engine) as session:
        yield session


def depend(engine: Engine, wait: Wait) -> None:
    """Correct: the dependency closes the session when the request is over."""
    with closing(get_session(engine)) as dependency:
        Repository(next(dependency)).one()
        wait()


@contextmanager
def unit_of_work(engine: Engine) -> Iterator[Session]:
    """Commits and closes."""
    session = Session(engine)
    try:
        session.execute(ONE)
        yield session
        session.commit()
    finally:
        session.close()


def work(engine: Engine, wait: Wait) -> None:
    """Correct."""
    with unit_of_work(engine) as session:
        Repository(session).one()
        wait()


def list_scoped() -> Any:
    """Uses the session of its thread, or request."""
    return scoped["db"].execute(ONE).scalar_one()


def serve_scoped(_engine: Engine, wait: Wait) -> None:
    """Correct: removes the session of its thread, or request, at the end."""
    list_scoped()
    wait()
    scoped["db"].remove()


def in_one_line(engine: Engine) -> Sequence[Row[Any]]:
    """Never closes its connection."""
    return engine.connect().execute(ONE).all()


def forget(engine: Engine) -> Any:
    """Never closes its session."""
    return Repository(Session(engine)).one()


def forget_kept(engine: Engine) -> None:
    """Never closes its session, which something keeps."""
    session = Session(engine)
    session.execute(ONE)
    Cycle(session)


def open_session(engine: Engine) -> Session:
    """Leaves a session to its caller."""
    session = Session(engine)
    session.execute(ONE)
    return session


def forget_opened(engine: Engine) -> None:
    """Does not close the session that it was given."""
    Cycle(open_session(engine))


def open_rows(engine: Engine) -> Any:
    """Leaves rows to its caller, with the connection that they are read from."""
    return engine.connect().execute(ONE)


def forget_rows(engine: Engine) -> None:
    """Does not close what it was given."""
    Cycle(open_rows(engine))


def raise_error(engine: Engine) -> None:
    """Does not close its session when an exception comes."""
    session = Session(engine)
    session.execute(ONE)
    Cycle(session)
    session.execute(text("SELECT * FROM no_such_table"))
    session.close()


def pass_on(connection: Connection) -> Any:
    """Uses a connection that somebody else closes."""
    return connection.execute(ONE).scalar_one()


def use_with_helper(engine: Engine, wait: Wait) -> None:
    """Correct."""
    with engine.connect() as connection:
        pass_on(connection)
        wait()
