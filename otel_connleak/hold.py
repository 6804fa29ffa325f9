"""The words of the project as types: what is held, by whom, from where, and what speaks for a leak (L0).

DESIGN section 2 defines each word. Nothing here knows a library, a clock or OpenTelemetry.
"""

from __future__ import annotations

import enum
import weakref
from dataclasses import dataclass, field
from types import CodeType
from typing import Any, Final

from otel_connleak.connection import Account, Kind, Tracked, Transaction
from otel_connleak.verbs import Verb


class Evidence(enum.StrEnum):
    """An observed fact that speaks for a leak (DESIGN section 4)."""

    DROPPED = "dropped"
    DISCARDED = "discarded"
    THREAD_ENDED = "thread_ended"
    TASK_ENDED = "task_ended"
    TRACE_ENDED = "trace_ended"
    FUNCTION_EXITED = "function_exited"
    OVERDUE = "overdue"
    PROCESS_EXITED = "process_exited"


_ENDS: Final = frozenset({Evidence.THREAD_ENDED, Evidence.TASK_ENDED, Evidence.TRACE_ENDED})


class Certainty(enum.StrEnum):
    """``possible`` while somebody could still release it, ``confirmed`` when nobody can."""

    POSSIBLE = "possible"
    CONFIRMED = "confirmed"


class Outcome(enum.StrEnum):
    """How a hold stands or ended."""

    HELD = "held"
    RELEASED = "released"
    LOST = "lost"


class Ending(enum.StrEnum):
    """How a transaction ended, or the last one of a connection's hold."""

    NONE = "none"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled_back"
    DISCARDED = "discarded"
    OPEN = "open"


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
        totals: the totals of this function by account (see `Tracked`), filled by the registry.
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
    totals: dict[Account, Any] = field(default_factory=dict)
    attributes: dict[str, Any] | None = None
    span_name: str = ""
    watched: bool = False


type Origin = tuple[CallSite, int, CodeType | None, tuple[Any, ...]]
"""Who is asking: call site, identity of the owner's frame (0: nobody), its code, the stack (see `Hold`)."""


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


class Hold:
    """One resource held by the application from acquire to release.

    Times are monotonic seconds. A hold refers to the connection only weakly, through ``tracked``. One is made
    for each acquire: what most holds never change is a default of the class, not set for each.

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
        verb: what the driver call does that is running, as far as it is known.
        totals: what it counts in, set by the registry.
        writer: weak reference to the cursor that runs a statement which may write, or None.
        within: the connection's hold, where a transaction or a cursor of it is held; else None.
        untold: its transactions are no holds: a framework's test is one from its begin to its end.
        begun_by: whose block the next transaction of this connection is, where that is known before.
        inner: the hold of the connection's open transaction (`TransactionHold`), or None.
        unsettled: writes of calls that were not over when they returned, perhaps outside of a transaction.
        cursors: the holds of its open cursors (`CursorHold`), or None while there was none.
        ending: how the transaction ended, or the last one of a connection.
        trace: trace id of the acquire, 0 where there is none.
        span: the hold span of the span listener, opaque here.
        root: the local root span it belongs to, for the trace evidence.
        ended_task: name of the task if it has ended: it may be collected before the report is written.
        task_callback: what the task evidence has registered with the task.
        seen: when each evidence was observed last, by kind; None while there is none.
        unseen: it is kept in a context variable: no search can see that.
        listens: its connection waits for notifications of the server, and is idle by design.
        reclaimed: the application dropped it, and the library has taken it back by itself: no slot is lost.
        reached_in: frame identity of a live activation that was found to reach it, or 0.
        leak: the report about this hold, opaque here, or None.
    """

    released: float = 0.0
    outcome: Outcome = Outcome.HELD
    busy: float = 0.0
    busy_since: float | None = None
    calls: int = 0
    last_call: float = 0.0
    transaction: Transaction = Transaction.UNKNOWN
    statement: Any = None
    verb: Verb = Verb.NONE
    totals: Any = None
    writer: Any = None
    within: Hold | None = None
    untold: bool = False
    begun_by: Origin | None = None
    inner: Any = None
    unsettled: int = 0
    cursors: list[Any] | None = None
    ending: Ending = Ending.NONE
    trace: int = 0
    span: Any = None
    root: Any = None
    ended_task: str | None = None
    task_callback: Any = None
    seen: dict[Evidence, float] | None = None
    unseen: bool = False
    listens: bool = False
    reclaimed: bool = False
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
    def kind(self) -> Kind:
        """What is held."""
        return self.tracked.kind

    @property
    def by_design(self) -> bool:
        """Whether neither its age nor the end of the function that acquired it says anything."""
        return self.listens or self.tracked.by_design

    @property
    def is_open(self) -> bool:
        """Whether it is neither released nor lost."""
        return self.outcome is Outcome.HELD

    @property
    def task_name(self) -> str | None:
        """Name of the asyncio task of the acquire, or None outside of one."""
        task: Any = self.task() if self.task is not None else None
        return task.get_name() if hasattr(task, "get_name") else self.ended_task

    @property
    def scope_is_over(self) -> bool:
        """Whether it is known that the thread, task or request is over in which it was acquired."""
        return not _ENDS.isdisjoint(self.seen or ())

    @property
    def skipped(self) -> tuple[int, ...]:
        """Identities of what refers to the connection and is no way to it: its pool, and parts of that."""
        reference = self.pool.library if self.pool is not None else self.tracked.library
        library = reference() if reference is not None else None
        several = library if type(library) is tuple else (library,)
        return tuple(id(each) for each in several if each is not None)

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
