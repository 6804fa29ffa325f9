"""What is known of a connection, its server and its pool (L0). Nothing here knows a library or a clock."""

from __future__ import annotations

import enum
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class Kind(enum.StrEnum):
    """What is held."""

    CONNECTION = "connection"
    TRANSACTION = "transaction"
    CURSOR = "cursor"


type Account = str | tuple[str | None, Kind] | None
"""Under what holds are counted: the name of the pool, or None; with its kind what is no connection."""


class Transaction(enum.StrEnum):
    """The driver's transaction status as one word, read without a round trip."""

    NONE = "none"
    OPEN = "open"
    ABORTED = "aborted"
    ACTIVE = "active"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is constant for one physical connection, read once when it is first seen.

    A closed connection may raise when asked for these, so they are kept. Without a server (``has_server``) it
    is this process that reads the database: nobody misses an idle connection.
    """

    system: str = "other_sql"
    namespace: str | None = None
    address: str | None = None
    port: int | None = None
    server_pid: int | None = None
    has_server: bool = True


@dataclass(frozen=True, slots=True)
class PoolFigures:
    """How full a pool is, in connections and requests. ``None`` where the pool does not say."""

    used: int
    maximum: int | None = None
    waiting: int | None = None


@dataclass(slots=True, eq=False, weakref_slot=True)
class Pool:
    """One connection pool of the application.

    Attributes:
        name: the pool's name, as the user gave it or as the library numbered it.
        figures: asks the live pool for its maximum and waiting requests; must not block.
        hint: one sentence that says how a connection of this pool is given back on every path.
        keeps: where the pool itself refers to what it has handed out, so that it is never collected: takes a
            connection and counts these references now.
        library: gives the library's object that refers to its connections, and keeps it only weakly: who
            reaches only that has no connection. Where there are several such objects, a tuple of them.
        open: holds of this pool that are open now.
        lost: connections of this pool that nobody can give back any more; their slots stay taken.
    """

    name: str
    figures: Callable[[], tuple[int | None, int | None]]
    hint: str = ""
    keeps: Callable[[Any], int] | None = None
    library: Callable[[], Any] | None = None
    open: int = 0
    lost: int = 0

    def snapshot(self) -> PoolFigures:
        """The pool's figures now. Never raises: a pool that fails to answer has only our own count."""
        try:
            maximum, waiting = self.figures()
        except Exception:
            maximum, waiting = None, None
        return PoolFigures(self.open + self.lost, maximum, waiting)


class Tracked(weakref.ref[Any]):
    """A weak reference to one physical connection, with what is known about it.

    Where a transaction is held, it is one to the object that ends it.

    Its callback is a queue's ``put``: when the connection is collected, the garbage collector does nothing
    but hand this object to the watchdog (promise 4 of DESIGN section 6).

    Attributes:
        key: ``id()`` of the connection; the number may be in use again after it has died.
        facts: what was read from it when it was first seen.
        transaction: reads its transaction status; takes the connection.
        pool: the pool it belongs to for its whole life, or None for a direct connection.
        kind: what is held with it.
        account: under what its holds are counted.
        by_design: a framework keeps it for as long as the thread lives, whoever happened to need it first.
        hold: the open hold of it, opaque here, or None while it is not held.
        closed: the connection was already closed when it was dropped: nothing was lost.
        keeps: where the connection refers to itself, or its own thread does, so that it is not collected at
            once: takes it and counts these references now. Set it, where it is so, after `tracked_of`.
        library: as that of `Pool`, for an object of a framework that refers to what is held. Set it likewise.
        hint: as that of `Pool`, where there is no pool. Set it likewise.
        transaction_hint: one sentence that says how a transaction is ended on every path. Set it likewise.
        transactions: stands for the transactions of the connection, made with the first one.
        attributes: the span attributes of this connection, filled by the span listener.
    """

    __slots__ = (
        "account", "attributes", "by_design", "closed", "facts", "hint", "hold", "keeps", "key", "kind",
        "library", "pool", "transaction", "transaction_hint", "transactions",
    )  # fmt: skip

    key: int
    facts: Facts
    transaction: Callable[[Any], Transaction]
    pool: Pool | None
    kind: Kind
    account: Account
    by_design: bool
    hold: Any
    closed: bool
    keeps: Callable[[Any], int] | None
    library: Callable[[], Any] | None
    hint: str
    transaction_hint: str
    transactions: Tracked | None
    attributes: dict[str, Any] | None

    def may_be(self, connection: Any) -> bool:
        """Whether it is this connection, which has its identity; also in a finalizer of the same cycle.

        In a cycle that is collected weak references go before the finalizers run (PEP 442), and a ``finally``
        in one of them may well give the connection back.
        """
        referent = self()
        return referent is connection or referent is None


def tracked_of(
    connection: Any,
    put: Callable[[object], None] | None,
    facts: Facts,
    transaction: Callable[[Any], Transaction],
    pool: Pool | None,
    kind: Kind,
    by_design: bool,
) -> Tracked:
    """A connection that is seen for the first time. Raises `TypeError` if it cannot be weakly referenced.

    ``put`` is told when it is collected; None is nobody. The other words are those of `Tracked`.
    """
    tracked = Tracked(connection, put)
    tracked.key = id(connection)
    tracked.facts = facts
    tracked.transaction = transaction
    tracked.pool = pool
    name = None if pool is None else pool.name
    tracked.kind = kind
    tracked.account = name if kind is Kind.CONNECTION else (name, kind)
    tracked.by_design = by_design
    tracked.hold = None
    tracked.closed = False
    tracked.keeps = None
    tracked.library = None
    tracked.hint = ""
    tracked.transaction_hint = ""
    tracked.transactions = None
    tracked.attributes = None
    return tracked
