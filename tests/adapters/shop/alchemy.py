"""Functions of an application that write through SQLAlchemy: who commits, and who forgets to."""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy import Connection, Engine, func, insert, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker


class Base(DeclarativeBase):
    """The tables."""


class Customer(Base):
    """Has a name."""

    __tablename__ = "customers"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class OutOfStockError(Exception):
    """An order cannot be served."""


ADD = insert(Customer).values(id=4, name="Grace")
COUNT = select(func.count()).select_from(Customer)


def add(connection: Connection | Session) -> None:
    """A helper: the first to run a statement."""
    connection.execute(ADD)


def count(connection: Connection | Session) -> int:
    """A helper that reads."""
    return connection.scalar(COUNT) or 0


# --- forgotten -----------------------------------------------------------------------------------------


def forget_commit(engine: Engine) -> None:
    """Writes, and closes."""
    with engine.connect() as connection:
        connection.execute(ADD)


def forget_commit_and_close(engine: Engine) -> None:
    """The same, without ``with``."""
    connection = engine.connect()
    connection.execute(ADD)
    connection.close()


def forget_in_session(engine: Engine) -> None:
    """Flushes, and closes."""
    session = Session(engine)
    session.add(Customer(id=4, name="Grace"))
    session.flush()
    session.close()


def forget_in_block(engine: Engine) -> None:
    """The same, with ``with``."""
    with Session(engine) as session:
        session.add(Customer(id=4, name="Grace"))
        session.flush()


def forget_and_reset(engine: Engine) -> None:
    """The session goes on, with another transaction."""
    session = Session(engine)
    session.execute(ADD)
    session.reset()
    count(session)
    session.close()


def forget_many(engine: Engine) -> None:
    """Several rows at once."""
    with engine.connect() as connection:
        connection.execute(insert(Customer), [{"id": 4, "name": "Grace"}, {"id": 5, "name": "Joan"}])


def forget_on_one_branch(engine: Engine) -> None:
    """Commits only what it thinks is much."""
    with engine.connect() as connection:
        connection.execute(ADD)
        if count(connection) > 100:
            connection.commit()


def forget_second(engine: Engine) -> None:
    """Commits, and then writes again."""
    with engine.connect() as connection:
        connection.execute(text("UPDATE customers SET name = 'nobody' WHERE id = 1"))
        connection.commit()
        connection.execute(ADD)


def forget_raw(engine: Engine) -> None:
    """With the driver's connection."""
    connection = engine.raw_connection()
    connection.cursor().execute("INSERT INTO customers VALUES (4, 'Grace')")
    connection.close()


def forget_after_savepoint(engine: Engine) -> None:
    """A savepoint is no commit."""
    with engine.connect() as connection, connection.begin_nested():
        connection.execute(ADD)


def forget_in_handler(engine: Engine) -> None:
    """Handles an exception, in a transaction of its own that nobody commits."""
    try:
        raise OutOfStockError
    except OutOfStockError:
        with engine.connect() as connection:
            connection.execute(ADD)


# --- meant ---------------------------------------------------------------------------------------------


def read(engine: Engine) -> None:
    """Only reads."""
    with engine.connect() as connection:
        count(connection)
    with Session(engine) as session:
        count(session)


def commit(engine: Engine) -> None:
    """As you go."""
    with engine.connect() as connection:
        connection.execute(ADD)
        connection.commit()
        count(connection)


def commit_session(engine: Engine) -> None:
    """As you go, too."""
    with Session(engine) as session:
        session.add(Customer(id=4, name="Grace"))
        session.commit()
        count(session)


def roll_back(engine: Engine) -> None:
    """Changes its mind."""
    with engine.connect() as connection:
        connection.execute(ADD)
        connection.rollback()


def roll_back_session(engine: Engine) -> None:
    """Changes its mind, too."""
    with Session(engine) as session:
        session.execute(ADD)
        session.rollback()


def close_transaction(engine: Engine) -> None:
    """Changes its mind, in other words."""
    with engine.connect() as connection:
        transaction = connection.begin()
        connection.execute(ADD)
        transaction.close()


def invalidate(engine: Engine) -> None:
    """Throws the connection away."""
    with engine.connect() as connection:
        connection.execute(ADD)
        connection.invalidate()


def invalidate_session(engine: Engine) -> None:
    """Throws the session's connection away."""
    with Session(engine) as session:
        session.execute(ADD)
        session.invalidate()


def fail(engine: Engine) -> None:
    """An exception leaves the block."""
    with suppress(OutOfStockError), engine.connect() as connection:
        connection.execute(ADD)
        raise OutOfStockError


def fail_in_begin(engine: Engine) -> None:
    """An exception leaves the block of a transaction."""
    with suppress(OutOfStockError), engine.begin() as connection:
        connection.execute(ADD)
        raise OutOfStockError


def fail_in_session(engine: Engine) -> None:
    """An exception leaves the block of a session."""
    with suppress(OutOfStockError), Session(engine) as session:
        session.execute(ADD)
        raise OutOfStockError


def fail_in_session_begin(engine: Engine) -> None:
    """An exception leaves the block of a session's transaction."""
    with suppress(OutOfStockError), sessionmaker(engine).begin() as session:
        session.execute(ADD)
        raise OutOfStockError


def fail_finally(engine: Engine) -> None:
    """Closes whatever happens."""
    session = Session(engine)
    with suppress(OutOfStockError):
        try:
            session.execute(ADD)
            raise OutOfStockError
        finally:
            session.close()


def depend(engine: Engine) -> Generator[Session]:
    """A dependency of a web framework, which throws what the handler has raised."""
    with Session(engine) as session:
        yield session


def fail_in_dependency(engine: Engine) -> None:
    """A framework and a handler that raises."""
    with suppress(OutOfStockError), contextmanager(depend)(engine) as session:
        add(session)
        raise OutOfStockError


def aborted(engine: Engine) -> None:
    """Goes on after an error, which PostgreSQL does not allow."""
    with engine.connect() as connection:
        connection.execute(ADD)
        with suppress(Exception):
            connection.execute(text("SELECT nothing FROM nowhere"))


def autocommit(engine: Engine) -> None:
    """There is no transaction, whatever is begun."""
    engine = engine.execution_options(isolation_level="AUTOCOMMIT")
    with engine.begin() as connection:
        add(connection)
    with Session(engine) as session:
        count(session)


def nothing(engine: Engine) -> None:
    """Begins, and asks for nothing."""
    with engine.begin():
        pass
    with Session(engine) as session, session.begin():
        pass


def in_savepoints(engine: Engine) -> None:
    """A savepoint is given up, another one is not."""
    with engine.begin() as connection:
        with suppress(OutOfStockError), connection.begin_nested():
            connection.execute(ADD)
            raise OutOfStockError
        with connection.begin_nested():
            add(connection)


def join(engine: Engine) -> None:
    """As tests do it: the session is in a transaction that somebody else rolls back."""
    with engine.connect() as connection:
        transaction = connection.begin()
        with Session(connection) as session:
            session.add(Customer(id=4, name="Grace"))
            session.commit()
        transaction.rollback()


def in_two_phases(engine: Engine) -> None:
    """Prepares, and commits."""
    with engine.connect() as connection:
        transaction = connection.begin_twophase()
        add(connection)
        transaction.prepare()
        transaction.commit()


def in_two_phases_by_session(engine: Engine) -> None:
    """Leaves both phases to the session."""
    with Session(engine, twophase=True) as session:
        add(session)
        session.commit()


# --- whose it is ---------------------------------------------------------------------------------------


def begin(engine: Engine) -> None:
    """Begins; a helper writes."""
    with engine.begin() as connection:
        add(connection)


def begin_on_connection(engine: Engine) -> None:
    """Begins a connection's transaction; a helper writes."""
    with engine.connect() as connection, connection.begin():
        add(connection)


def begin_session(engine: Engine) -> None:
    """Begins a session's transaction; a helper writes."""
    with Session(engine) as session, session.begin():
        add(session)


def begin_maker(engine: Engine) -> None:
    """Begins with a session; a helper writes."""
    with sessionmaker(engine).begin() as session:
        add(session)


@contextmanager
def unit_of_work(engine: Engine) -> Iterator[Session]:
    """A context manager: the function that uses it is answerable."""
    with Session(engine) as session, session.begin():
        yield session


def begin_unit(engine: Engine) -> None:
    """Begins with a context manager of the application's own; a helper writes."""
    with unit_of_work(engine) as session:
        add(session)


def start(connection: Any) -> Any:
    """Begins, and leaves the rest to others."""
    return connection.begin()


def begin_elsewhere(engine: Engine) -> None:
    """What has begun it is over: whoever writes is answerable."""
    with engine.connect() as connection:
        transaction = start(connection)
        add(connection)
        transaction.commit()
    with Session(engine) as session:
        transaction = start(session)
        count(session)
        transaction.commit()


def begin_again(engine: Engine) -> None:
    """The first block ends without a statement; a helper begins the next transaction by itself."""
    with engine.connect() as connection:
        with connection.begin():
            pass
        add(connection)
        connection.commit()


def write(engine: Engine) -> None:
    """A helper begins: it is the first to run a statement."""
    with engine.connect() as connection:
        add(connection)
        connection.commit()


def hold(engine: Engine, wait: Callable[[], object]) -> None:
    """Waits in its transaction."""
    with engine.begin() as connection:
        add(connection)
        wait()
