"""Whatever is executed in whatever order: lost writes are reported, and nothing else is.

The truth is a server's own account of what it has been sent, as PostgreSQL keeps it: what was written, which
of it a savepoint took back, what an error has aborted.
"""

import os
from dataclasses import dataclass, field

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from otel_connleak.connection import Transaction
from otel_connleak.hold import Ending
from tests.support.core import Core
from tests.support.toy import Connection

MORE = os.environ.get("CONNLEAK_EXAMPLES")
HISTORIES = settings(
    derandomize=not MORE,
    database=None,
    deadline=None,
    max_examples=int(MORE or "400"),
    suppress_health_check=[HealthCheck.too_slow],
)


class Refused(Exception):
    """What the server does not accept."""

    sqlstate = "22012"


@dataclass
class Session:
    """A session of the server: what is in its transaction.

    Attributes:
        autocommit: without a BEGIN each statement is a transaction.
        statements: of the open transaction, each with whether it has written; None if none is open.
        savepoints: how many statements there were at each.
        aborted: an error has aborted it.
    """

    autocommit: bool
    statements: list[bool] | None = None
    savepoints: list[int] = field(default_factory=list)
    aborted: bool = False

    def run(self, statement: str, fails: bool) -> tuple[Transaction, BaseException | None]:
        """Run a statement: the status afterwards, and what was raised."""
        word = statement.split(maxsplit=1)[0]
        error: BaseException | None = None
        if word in ("COMMIT", "ROLLBACK") and statement != "ROLLBACK TO a":
            self.statements, self.savepoints, self.aborted = None, [], False
        elif self.statements is None and word in ("SAVEPOINT", "RELEASE", "ROLLBACK") and self.autocommit:
            error = Refused()  # there is nothing to save
        else:
            error = self._run_inside(statement, word, fails)
        return self.status, error

    def _run_inside(self, statement: str, word: str, fails: bool) -> BaseException | None:
        if self.statements is None and (word == "BEGIN" or not self.autocommit):
            self.statements = []
        if self.statements is None:
            return Refused() if fails else None
        if statement == "ROLLBACK TO a" and self.savepoints:
            del self.statements[self.savepoints[-1] :]
            self.aborted = False
            return None
        if fails or self.aborted or (word in ("RELEASE", "ROLLBACK") and not self.savepoints):
            self.aborted = True
            return Refused()
        if word == "SAVEPOINT":
            self.savepoints.append(len(self.statements))
        elif word == "RELEASE":
            self.savepoints.pop()
        self.statements.append(word == "INSERT")
        return None

    @property
    def status(self) -> Transaction:
        """As the driver tells it."""
        if self.statements is None:
            return Transaction.NONE
        return Transaction.ABORTED if self.aborted else Transaction.OPEN

    @property
    def loses(self) -> int:
        """How many writes a rollback would lose now."""
        return 0 if self.aborted else sum(self.statements or ())


INSERT = "INSERT INTO t VALUES (1)"
STATEMENTS = st.sampled_from(
    "INSERT INTO t VALUES (1)|SELECT 1|BEGIN|COMMIT|ROLLBACK|SAVEPOINT a|RELEASE a|ROLLBACK TO a".split("|")
)
CALLS = st.lists(st.tuples(STATEMENTS, st.integers(0, 5)), max_size=12)
"""Statements; every sixth of them fails."""


def repository(core: Core, connection: Connection, session: Session, statement: str, fails: bool) -> None:
    """A function of a repository, which was given its connection."""
    status, error = session.run(statement, fails)
    core.pool.execute(connection, statement, status, error)


RELEASED = [(word, 1) for word in ("SAVEPOINT a", INSERT, "SAVEPOINT a", "RELEASE a", "ROLLBACK TO a")]


@HISTORIES
@example(autocommit=False, calls=RELEASED, fails=False)
@given(autocommit=st.booleans(), calls=CALLS, fails=st.booleans())
def test_any_history(autocommit: bool, calls: list[tuple[str, int]], fails: bool) -> None:
    """A report says how many writes the server has lost; there is none if an exception was in flight."""
    core = Core()
    connection = core.pool.getconn()
    hold = core.pool.hold_of(connection)
    session = Session(autocommit)
    for statement, luck in calls:
        repository(core, connection, session, statement, luck == 0)
        inner = hold.inner
        assert (inner is not None) is (session.statements is not None)
        assert inner is None or inner.aborted or inner.writes == session.loses
    lost = session.loses
    try:
        if fails:
            raise KeyError
        core.pool.putconn(connection)
    except KeyError:
        core.pool.putconn(connection)
    core.after(0.0)

    assert [leak.writes for leak in core.reports] == ([lost] if lost and not fails else [])
    assert (hold.ending is Ending.DISCARDED) is bool(lost and not fails)
    assert core.registry.holds() == []
    totals = core.registry.totals.all()
    assert sum(each.open for each in totals) == 0
    assert sum(each.discarded for each in totals) == len(core.reports)
