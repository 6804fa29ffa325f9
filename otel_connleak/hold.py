"""The words of the project as types: what is held, by whom, from where, and what speaks for a leak (L0).

DESIGN section 2 defines each word. Nothing here knows a library, a clock or OpenTelemetry.
"""

from __future__ import annotations

import enum
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from types import CodeType
from typing import Any


class Kind(enum.StrEnum):
    """What is held."""

    CONNECTION = "connection"
    TRANSACTION = "transaction"
    CURSOR = "cursor"


class Evidence(enum.StrEnum):
    """An observed fact that speaks for a leak (DESIGN section 4)."""

    DROPPED = "dropped"
    THREAD_ENDED = "thread_ended"
    TASK_ENDED = "task_ended"
    TRACE_ENDED = "trace_ended"
    FUNCTION_EXITED = "function_exited"
    OVERDUE = "overdue"
    PROCESS_EXITED = "process_exited"


class Certainty(enum.StrEnum):
    """``possible`` while somebody could still release it, ``confirmed`` when nobody can."""

    POSSIBLE = "possible"
    CONFIRMED = "confirmed"


class Transaction(enum.StrEnum):
    """The driver's transaction status as one word, read without a round trip."""

    NONE = "none"
    OPEN = "open"
    ABORTED = "aborted"
    ACTIVE = "active"
    UNKNOWN = "unknown"


class Outcome(enum.StrEnum):
    """How a hold stands or ended."""

    HELD = "held"
    RELEASED = "released"
    LOST = "lost"


@dataclass(slots=True, eq=False)
class CallSite:
    """One place in the code that acquires: computed once, shared by all holds acquired there.

    Attributes:
        function: fully qualified name, ``module.Class.function``.
        short: the same without its module, ``Class.function``.
        file: path as the interpreter knows it.
        line: line number of the acquire, counted from one.
        ignored: whether the user asked that nothing acquired here is reported.
        long_lived: whether what is acquired here never becomes overdue.
        totals: the totals of this function by pool name, filled by the registry.
        attributes: what the spans of this site have in common, filled by the span listener.
        span_name: name of the hold spans of this site, filled by the span listener.
        watched: whether the exit evidence already watches the code of this site.
    """

    function: str
    short: str
    file: str
    line: int
    ignored: bool = False
    long_lived: bool = False
    totals: dict[str | None, Any] = field(default_factory=dict)
    attributes: dict[str, Any] | None = None
    span_name: str = ""
    watched: bool = False


type Origin = tuple[CallSite, int, CodeType | None, tuple[Any, ...]]
"""Who is asking: call site, identity of the owner's frame (0: nobody), its code, the stack (see `Hold`)."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is constant for one physical connection, read once when it is first seen.

    A closed connection may raise when asked for these, so they are kept.
    """

    system: str = "other_sql"
    namespace: str | None = None
    address: str | None = None
    port: int | None = None
    server_pid: int | None = None


@dataclass(frozen=True, slots=True)
class PoolFigures:
    """How full a pool is, in connections and requests. ``None`` where the pool does not say."""

    used: int
    maximum: int | None = None
    waiting: int | None = None


@dataclass(slots=True, eq=False)
class Pool:
    """One connection pool of the application.

    Attributes:
        name: the pool's name, as the user gave it or as the library numbered it.
        figures: asks the live pool for its maximum and waiting requests; must not block.
        hint: one sentence that says how a connection of this pool is given back on every path.
        open: holds of this pool that are open now.
        lost: connections of this pool that nobody can give back any more; their slots stay taken.
    """

    name: str
    figures: Callable[[], tuple[int | None, int | None]]
    hint: str = ""
    open: int = 0
    lost: int = 0

    def snapshot(self) -> PoolFigures:
        """The pool's figures now. Never raises: a pool that fails to answer has only our own count."""
        try:
            maximum, waiting = self.figures()
        except Exception:
            maximum, waiting = None, None
        return PoolFigures(self.open + self.lost, maximum, waiting)


class ThreadRecord:
    """One thread that has acquired something; dies with the thread.

    Attributes:
        ident: the interpreter's thread identifier; it is reused after the thread has ended.
        holds: open holds that were acquired in this thread, by their number.
        ended_at: monotonic seconds of the thread's end, or None while it runs.
        loop: weak reference to the event loop in which it has acquired last, or None.
    """

    __slots__ = ("__weakref__", "ended_at", "holds", "ident", "loop", "thread")

    def __init__(self, thread: Any, ident: int) -> None:
        self.thread = thread
        self.ident = ident
        self.holds: dict[int, Hold] = {}
        self.ended_at: float | None = None
        self.loop: weakref.ref[Any] | None = None

    @property
    def name(self) -> str:
        """The thread's name now (threads are renamed after their start by some servers)."""
        name: str = self.thread.name
        return name


class Tracked(weakref.ref[Any]):
    """A weak reference to one physical connection, with what is known about it.

    Its callback is a queue's ``put``: when the connection is collected, the garbage collector does nothing
    but hand this object to the watchdog (promise 4 of DESIGN section 6).

    Attributes:
        key: ``id()`` of the connection; the number may be in use again after it has died.
        facts: what was read from it when it was first seen.
        transaction: reads its transaction status; takes the connection.
        pool: the pool it belongs to for its whole life, or None for a direct connection.
        hold: the open hold of it, or None while it is not held.
        closed: the connection was already closed when it was dropped: nothing was lost.
        attributes: the span attributes of this connection, filled by the span listener.
    """

    __slots__ = ("attributes", "closed", "facts", "hold", "key", "pool", "transaction")

    key: int
    facts: Facts
    transaction: Callable[[Any], Transaction]
    pool: Pool | None
    hold: Hold | None
    closed: bool
    attributes: dict[str, Any] | None


class Hold:
    """One resource held by the application from acquire to release.

    Times are monotonic seconds. A hold refers to the connection only weakly, through ``tracked``. One of these
    is made for each acquire: what most holds never change is a default of the class, not set for each.

    Attributes:
        number: counts the holds of this process; unique in it.
        source: the adapter that opened the hold; only the same adapter can end it.
        tracked: the connection, weakly, with what is known about it.
        site: the owner's call site; replaced when ownership moves to a caller.
        owner: identity of the owner's frame object, or 0 where no activation can be watched. Frame identities
            are reused, so an activation is known by this and its code object.
        code: the owner's code object, or None with ``owner`` 0.
        stack: code objects and instruction offsets of the acquire's frames, nearest first, flat; formatted
            only when a report is written.
        thread: the thread of the acquire.
        task: weak reference to the asyncio task of the acquire, or None outside of one.
        pool: the pool, or None for a direct connection.
        acquired: when it was acquired.
        long_lived: whether it never becomes overdue.
        released: when it was released or lost.
        outcome: whether it is held, released or lost.
        busy: seconds inside the driver so far, finished calls only.
        busy_since: start of the driver call that is running, or None.
        calls: number of driver calls.
        last_call: end of the last driver call, 0 while there was none.
        transaction: the transaction status after the last driver call.
        statement: the last statement as the application gave it; turned to text in a report only.
        trace: trace id of the acquire, 0 where there is none.
        span: the hold span of the span listener, opaque here.
        root: the local root span it belongs to, for the trace evidence.
        ended_task: name of the task if it has ended: it may be collected before the report is written.
        task_callback: what the task evidence has registered with the task.
        seen: when each evidence was observed, by kind; None while there is none.
        reached_in: frame identity of a live activation that was found to reach it, or 0.
        leak: the report about this hold, opaque here, or None.
    """

    kind: Kind = Kind.CONNECTION
    released: float = 0.0
    outcome: Outcome = Outcome.HELD
    busy: float = 0.0
    busy_since: float | None = None
    calls: int = 0
    last_call: float = 0.0
    transaction: Transaction = Transaction.UNKNOWN
    statement: Any = None
    trace: int = 0
    span: Any = None
    root: Any = None
    ended_task: str | None = None
    task_callback: Any = None
    seen: dict[Evidence, float] | None = None
    reached_in: int = 0
    leak: Any = None

    def __init__(
        self,
        number: int,
        source: str,
        tracked: Tracked,
        origin: Origin,
        thread: ThreadRecord,
        task: weakref.ref[Any] | None,
        acquired: float,
        long_lived: bool,
    ) -> None:
        self.number = number
        self.source = source
        self.tracked = tracked
        self.site, self.owner, self.code, self.stack = origin
        self.thread = thread
        self.task = task
        self.pool = tracked.pool
        self.acquired = acquired
        self.long_lived = long_lived

    @property
    def is_open(self) -> bool:
        """Whether it is neither released nor lost."""
        return self.outcome is Outcome.HELD

    @property
    def task_name(self) -> str | None:
        """Name of the asyncio task of the acquire, or None outside of one."""
        task: Any = self.task() if self.task is not None else None
        return task.get_name() if hasattr(task, "get_name") else self.ended_task

    def use_time(self, now: float) -> float:
        """Seconds from acquire to release, or to ``now`` while it is open."""
        return (now if self.outcome is Outcome.HELD else self.released) - self.acquired

    def idle_time(self, now: float) -> float:
        """Seconds of the use time in which no driver call ran."""
        busy = self.busy
        since = self.busy_since
        if since is not None and self.outcome is Outcome.HELD:
            busy += max(0.0, now - since)
        return max(0.0, self.use_time(now) - busy)

    def idle_since(self) -> float:
        """Since when no driver call has run; the acquire while there was none."""
        return max(self.acquired, self.last_call)
