"""Sessions and connections of SQLAlchemy: what is flushed is not committed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Engine, delete, func, insert, select, text, update
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from tests.corpus.scenarios.orm_database import BEFORE, Customer, engine_of
from tests.corpus.stage import Stage


class MailUnavailable(ConnectionError):
    """The mail server does not answer."""


def greet(name: str) -> None:
    """Sends a mail, which fails."""
    raise MailUnavailable(name)


@contextlib.contextmanager
def session_scope(engine: Engine) -> Iterator[Session]:
    """Commits, or rolls back, and closes."""
    session = Session(engine)
    try:
        yield session
        session.commit()
    except BaseException:
        session.rollback()
        raise
    finally:
        session.close()


def get_db(engine: Engine) -> Iterator[Session]:
    """A dependency: a session for a request; to commit is up to the handler."""
    session = Session(engine)
    try:
        yield session
    finally:
        session.close()


class CustomerRepository:
    """Works with the session that it is given."""

    def __init__(self, session: Session | scoped_session[Session]) -> None:
        self.session = session

    def add(self, name: str) -> None:
        """Not even flushes."""
        self.session.add(Customer(id=4, name=name))

    def add_and_flush(self, name: str) -> None:
        """Flushes, and leaves the commit to whoever has the session."""
        self.add(name)
        self.session.flush()

    def count(self) -> int:
        """Reads."""
        return self.session.scalar(select(func.count()).select_from(Customer)) or 0

    def rename_all(self) -> None:
        """Updates without an object."""
        self.session.execute(update(Customer).values(name="nobody"))


def register(engine: Engine, name: str, *, commit: bool = False) -> None:
    """A handler with a session of its own."""
    with Session(engine) as session:
        CustomerRepository(session).add_and_flush(name)
        if commit:
            session.commit()


def add_by_connection(engine: Engine, name: str, *, commit: bool = False) -> None:
    """Core: ``execute`` begins, and nothing commits by itself."""
    with engine.connect() as connection:
        connection.execute(insert(Customer).values(id=4, name=name))
        if commit:
            connection.commit()


def handle(engine: Engine, name: str, *, commit: bool) -> None:
    """A handler with a dependency, as a framework calls it."""
    dependency = get_db(engine)
    session = next(dependency)
    try:
        CustomerRepository(session).add_and_flush(name)
        if commit:
            session.commit()
    finally:
        next(dependency, None)


def flush_without_commit(stage: Stage) -> None:
    """A session is closed with what was flushed, and not committed: the row is not there."""
    engine = engine_of(stage)
    stage.fact()
    register(engine, "Ada")
    assert stage.names() == BEFORE


def flush_and_commit(stage: Stage) -> None:
    """The same with a commit."""
    register(engine_of(stage), "Ada", commit=True)
    assert stage.names() == [*BEFORE, "Ada"]


def flushed_by_a_query(stage: Stage) -> None:
    """A query flushes what it might have to see: the row is sent, and is not there in the end."""
    engine = engine_of(stage)
    with Session(engine) as session:
        customers = CustomerRepository(session)
        customers.add("Ada")
        assert customers.count() == 4
        stage.fact()
    assert stage.names() == BEFORE


def never_flushed(stage: Stage) -> None:
    """Nothing was flushed: the server has never heard of it."""
    with Session(engine_of(stage)) as session:
        CustomerRepository(session).add("Ada")
    assert stage.names() == BEFORE


def read_only_session(stage: Stage) -> None:
    """A session that has only read is closed."""
    with Session(engine_of(stage)) as session:
        assert CustomerRepository(session).count() == 3


def committed_by_begin(stage: Stage) -> None:
    """``Session.begin`` commits at the end of its block, after several graces."""
    with sessionmaker(engine_of(stage)).begin() as session:
        CustomerRepository(session).add_and_flush("Ada")
        stage.wait()
    assert stage.names() == [*BEFORE, "Ada"]


def update_without_commit(stage: Stage) -> None:
    """An UPDATE without an object, and no commit: the rows are as before."""
    engine = engine_of(stage)
    with Session(engine) as session:
        CustomerRepository(session).rename_all()
        stage.fact()
    assert stage.names() == BEFORE


def session_left_by_an_exception(stage: Stage) -> None:
    """An exception leaves the block of a session before the commit."""
    with contextlib.suppress(MailUnavailable), Session(engine_of(stage)) as session:
        CustomerRepository(session).add_and_flush("Ada")
        greet("Ada")
    assert stage.names() == BEFORE


def begin_left_by_an_exception(stage: Stage) -> None:
    """An exception leaves the block of ``Session.begin``, which rolls back."""
    with contextlib.suppress(MailUnavailable), sessionmaker(engine_of(stage)).begin() as session:
        CustomerRepository(session).add_and_flush("Ada")
        greet("Ada")
    assert stage.names() == BEFORE


def scope_left_by_an_exception(stage: Stage) -> None:
    """An exception leaves a scope made of a generator, which rolls back and raises again."""
    with contextlib.suppress(MailUnavailable), session_scope(engine_of(stage)) as session:
        CustomerRepository(session).add_and_flush("Ada")
        greet("Ada")
    assert stage.names() == BEFORE


def dependency_closes(stage: Stage) -> None:
    """A dependency closes the session, and the handler has not committed: the row is not there."""
    engine = engine_of(stage)
    stage.fact()
    handle(engine, "Ada", commit=False)
    assert stage.names() == BEFORE


def dependency_closes_what_is_committed(stage: Stage) -> None:
    """A dependency closes the session, and the handler has committed."""
    handle(engine_of(stage), "Ada", commit=True)
    assert stage.names() == [*BEFORE, "Ada"]


def savepoint_is_rolled_back(stage: Stage) -> None:
    """The changes within ``begin_nested`` are rolled back, the rest is committed."""
    with Session(engine_of(stage)) as session:
        customers = CustomerRepository(session)
        customers.add_and_flush("Ada")
        with contextlib.suppress(MailUnavailable), session.begin_nested():
            customers.rename_all()
            greet("Ada")
        session.commit()
    assert stage.names() == [*BEFORE, "Ada"]


def only_the_savepoint_is_committed(stage: Stage) -> None:
    """``begin_nested`` ends its savepoint, and nobody commits the transaction: the row is not there."""
    engine = engine_of(stage)
    with Session(engine) as session:
        with session.begin_nested():
            CustomerRepository(session).add_and_flush("Ada")
        stage.fact()
    assert stage.names() == BEFORE


def scoped_session_is_removed(stage: Stage) -> None:
    """The session of the thread is removed at the end of a request that forgot to commit."""
    sessions = scoped_session(sessionmaker(engine_of(stage)))
    CustomerRepository(sessions).add_and_flush("Ada")
    stage.fact()
    sessions.remove()
    assert stage.names() == BEFORE


def scoped_session_is_removed_after_an_error(stage: Stage) -> None:
    """The session of the thread is removed because a request has failed."""
    sessions = scoped_session(sessionmaker(engine_of(stage)))
    with contextlib.suppress(MailUnavailable):
        try:
            CustomerRepository(sessions).add_and_flush("Ada")
            greet("Ada")
        finally:
            sessions.remove()
    assert stage.names() == BEFORE


def connection_without_commit(stage: Stage) -> None:
    """A connection of the engine is closed without a commit: the row is not there."""
    engine = engine_of(stage)
    stage.fact()
    add_by_connection(engine, "Ada")
    assert stage.names() == BEFORE


def connection_with_commit(stage: Stage) -> None:
    """The same with a commit."""
    add_by_connection(engine_of(stage), "Ada", commit=True)
    assert stage.names() == [*BEFORE, "Ada"]


def connection_in_autocommit(stage: Stage) -> None:
    """An engine that commits each statement by itself: the row is there."""
    add_by_connection(engine_of(stage, isolation_level="AUTOCOMMIT"), "Ada")
    assert stage.names() == [*BEFORE, "Ada"]


def engine_begin(stage: Stage) -> None:
    """``engine.begin`` commits at the end of its block."""
    with engine_of(stage).begin() as connection:
        connection.execute(delete(Customer).where(Customer.id == 1))
    assert stage.names() == BEFORE[1:]


def transaction_of_a_test(stage: Stage) -> None:
    """A test gives its application a session within a transaction, and rolls all of it back on purpose."""
    with engine_of(stage).connect() as connection:
        transaction = connection.begin()
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            CustomerRepository(session).add_and_flush("Ada")
            session.commit()
        transaction.rollback()
    assert stage.names() == BEFORE


def aborted_and_closed(stage: Stage) -> None:
    """The server has aborted the transaction, and the connection is closed when that is handled."""
    with engine_of(stage).connect() as connection:
        connection.execute(insert(Customer).values(id=4, name="Ada"))
        with contextlib.suppress(Exception):
            connection.execute(text("UPDATE customers SET nmae = 'Bea'"))
    assert stage.names() == BEFORE


def committed_late(stage: Stage) -> None:
    """A function flushes and returns; whoever has the session commits, after several graces."""
    session: Any = Session(engine_of(stage))
    CustomerRepository(session).add_and_flush("Ada")
    stage.wait()
    session.commit()
    session.close()
    assert stage.names() == [*BEFORE, "Ada"]
