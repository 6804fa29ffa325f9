"""What a program may ask the running instrumentation (L5)."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

from otel_connleak.claim import Leak
from otel_connleak.connection import Kind
from otel_connleak.instrumentor import engine
from otel_connleak.otel import dbapi
from otel_connleak.snapshot import open_hold_dicts
from otel_connleak.totals import FunctionTotals


@dataclass(frozen=True, slots=True)
class OpenHold:
    """One connection, transaction or cursor that is held now. Times in seconds.

    Attributes:
        function: ``module.Class.function`` that acquired it, or to which it was handed.
        file: the file of the acquire.
        line: its line there.
        pool: the pool's name, or None for direct connections.
        server_pid: the process or connection id on the server, or None if it is not known.
        thread: name of the thread of the acquire.
        use_time: held for so long.
        idle_time: of which no driver call ran.
        statements: driver calls that have ended.
        number: counts the holds of this process.
        within: of a transaction or a cursor, the number of its connection's hold; else None.
        resource: ``connection``, ``transaction`` or ``cursor``.
        task: name of the asyncio task of the acquire, or None.
        busy_for: for so long a driver call has been running, or None while none runs.
        idle_for: for so long none has been running, or None while one runs.
        transaction: the transaction status after the last driver call: ``none``, ``open``, ``aborted``,
            ``active``, or ``unknown``.
        writes: statements that have written in the open transaction.
        statement: the last statement, or the one that runs, as the setting ``STATEMENTS`` allows; or None.
        leak: the id of the leak as which it was reported, or None.
    """

    function: str
    file: str
    line: int
    pool: str | None
    server_pid: int | None
    thread: str
    use_time: float
    idle_time: float
    statements: int
    number: int
    within: int | None
    resource: str
    task: str | None
    busy_for: float | None
    idle_for: float | None
    transaction: str
    writes: int
    statement: str | None
    leak: str | None


@dataclass(frozen=True, slots=True)
class FunctionStats:
    """What one function did with one pool since the start. Counts; times in seconds.

    Attributes:
        function: ``module.Class.function``.
        pool: the pool's name, or None for direct connections.
        acquired: connections acquired.
        released: of which given back.
        lost: of which nobody can give back any more.
        open: of which held now.
        leaked: reported as leaks.
        recovered: of which released after all.
        longest: the longest hold of a connection that has ended.
        use_time: the sum over all holds of connections that were released.
        transactions: transactions that it began.
        transactions_open: of which open now.
        transactions_leaked: of which reported, left open or discarded.
        discarded: of which lost their writes, because the connection was released without commit.
    """

    function: str
    pool: str | None
    acquired: int
    released: int
    lost: int
    open: int
    leaked: int
    recovered: int
    longest: float
    use_time: float
    transactions: int
    transactions_open: int
    transactions_leaked: int
    discarded: int


def open_holds() -> list[OpenHold]:
    """Who holds what now, oldest first; empty while nothing is instrumented. Any thread."""
    running = engine()
    if running is None:
        return []
    registry = running.registry
    entries = open_hold_dicts(registry.holds(), registry.clock(), running.settings.statements)
    return [OpenHold(**entry) for entry in entries]


def leaks() -> list[Leak]:
    """The leaks that this process has reported, oldest first, the last thousand. Any thread."""
    running = engine()
    return running.leaks.reported() if running is not None else []


def function_stats() -> list[FunctionStats]:
    """What each function did with each pool, by name. Any thread.

    A function that was given its connection, and began a transaction on it, has acquired none itself.
    """
    running = engine()
    if running is None:
        return []
    by_kind: dict[tuple[str, str | None], dict[Kind, FunctionTotals]] = {}
    for totals in running.registry.totals.all():
        # A helper that only ever acquired for its callers has nothing of its own.
        if totals.acquired or totals.leaked:
            by_kind.setdefault((totals.function, totals.pool), {})[totals.kind] = totals
    stats = [_stats(function, pool, kinds) for (function, pool), kinds in by_kind.items()]
    return sorted(stats, key=lambda entry: (entry.function, entry.pool or ""))


def _stats(function: str, pool: str | None, kinds: dict[Kind, FunctionTotals]) -> FunctionStats:
    connections = kinds.get(Kind.CONNECTION) or FunctionTotals(function, pool)
    transactions = kinds.get(Kind.TRANSACTION) or FunctionTotals(function, pool, Kind.TRANSACTION)
    return FunctionStats(
        function=function,
        pool=pool,
        acquired=connections.acquired,
        released=connections.released,
        lost=connections.lost,
        open=connections.open,
        leaked=connections.leaked,
        recovered=connections.recovered,
        longest=connections.longest,
        use_time=connections.use_time,
        transactions=transactions.acquired,
        transactions_open=transactions.open,
        transactions_leaked=transactions.leaked,
        discarded=transactions.discarded,
    )


def trace_dbapi(module: ModuleType, system: str | None = None) -> None:
    """Watch the connections of a DB-API 2.0 module that has no adapter, and make spans of its queries.

    Call it before the application connects, before or after ``instrument()``. What ``module.connect`` returns
    from then on is a proxy of the connection, as with every instrumentation that is built on
    ``opentelemetry-instrumentation-dbapi``, which must be installed. A second call changes nothing, and for a
    module that has an adapter it does nothing but log a warning.

    Args:
        module: for example ``pg8000.dbapi``; ``connect`` is replaced while the instrumentation runs.
        system: the value of ``db.system.name``, one of OpenTelemetry's; None if it is not one of them.

    Raises:
        TypeError: it has no function ``connect``.
        ImportError: ``opentelemetry-instrumentation-dbapi`` is not installed.
    """
    dbapi.request(module, system)
    running = engine()
    if running is not None:
        running.dbapi.trace(module)


def untrace_dbapi(module: ModuleType) -> None:
    """The inverse of `trace_dbapi`: give back the module's own functions. Idempotent."""
    dbapi.withdraw(module)
    running = engine()
    if running is not None:
        running.dbapi.untrace(module)
