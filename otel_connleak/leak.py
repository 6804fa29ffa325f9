"""From evidence to leak: grace, who could still release it, fingerprint, repeats, recovery (L2)."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Final

from otel_connleak.claim import Leak
from otel_connleak.config import Settings
from otel_connleak.connection import Kind
from otel_connleak.describe import Describe
from otel_connleak.frames import Activation
from otel_connleak.guard import failed
from otel_connleak.hold import Certainty, Ending, Evidence, Hold, Outcome
from otel_connleak.native import RLock
from otel_connleak.nested import cover, covered, has_begun, loses
from otel_connleak.pending import Claim, Claims
from otel_connleak.reach import Reach, Reachability
from otel_connleak.registry import Registry
from otel_connleak.singletons import Singletons
from otel_connleak.totals import FunctionTotals
from otel_connleak.transactions import Discarded
from otel_connleak.who import Rest, Who

_MOST_KEPT: Final = 1_000
"""Reported leaks that `Leaks.reported` remembers."""
_LONGEST_RECHECK: Final = 16
"""A claim against which somebody stands is looked at again after the grace, then twice that, up to this."""
_ALSO_BY_DESIGN: Final = frozenset({Evidence.DROPPED, Evidence.THREAD_ENDED})
"""What speaks against a connection that a framework keeps for its thread, whoever needed it first."""

type OnLeak = Callable[[Leak], None]
"""Takes a new leak, or one that was reported and has been released after all."""


class Leaks:
    """Decides what is a leak and tells it once.

    Facts arrive in any thread through `note`; they are judged in the watchdog's thread, or at exit in the
    thread that ends the process.

    Args:
        describe: makes the leak of a hold.
        due: tells the watchdog of a deadline.
        spent: processor time of the calling thread, in seconds.

    Attributes:
        suspect: called with a hold of which something was observed: it may be dropped where nothing tells.
        look: called with a hold that is to be judged: whether it is dropped.
        idle_again: called with a hold that may lie idle: to be told when it does so for the threshold again.
        watch: called with a hold and a live activation that can reach it; to be told when that exits.
    """

    def __init__(
        self,
        registry: Registry,
        describe: Describe,
        reach: Reachability,
        settings: Settings,
        due: Callable[[float], None],
        spent: Callable[[], float] = time.thread_time,
    ) -> None:
        self._registry = registry
        self._describe = describe
        self._who = Who(registry, reach, self._found)
        self._settings = settings
        self._due = due
        self._spent = spent
        self.suspect: Callable[[Hold], None] = lambda _hold: None
        self.look: Callable[[Hold], None] = lambda _hold: None
        self.idle_again: Callable[[Hold], None] = lambda _hold: None
        self.watch: Callable[[Hold, Activation], None] = lambda _hold, _activation: None
        self._claims = Claims()
        self._singletons = Singletons()
        self._on_leak: tuple[OnLeak, ...] = ()
        self._on_recovered: tuple[OnLeak, ...] = ()
        self.clear()

    def clear(self) -> None:
        """Begin anew, in a forked child."""
        self._lock = RLock()
        self._claims.clear()
        self._singletons.clear()
        self._rest = Rest(self._registry.clock)
        self._describe.clear()
        self._open: dict[str, tuple[Leak, FunctionTotals]] = {}
        self._reporting: set[int] = set()
        self._reported: deque[Leak] = deque(maxlen=_MOST_KEPT)
        self._lost: Counter[tuple[str, str | None, Kind]] = Counter()

    def listen(self, on_leak: Iterable[OnLeak], on_recovered: Iterable[OnLeak]) -> None:
        """Set who is told of leaks and of those that were released after all, in this order."""
        self._on_leak = tuple(on_leak)
        self._on_recovered = tuple(on_recovered)

    # --- facts ---------------------------------------------------------------------------------------------

    def note(self, hold: Hold, evidence: Evidence, at: float) -> None:
        """An observed fact about a hold, true since ``at`` (monotonic seconds). Any thread."""
        idle_in_transaction = hold.within is not None and evidence is Evidence.OVERDUE
        if hold.by_design and evidence not in _ALSO_BY_DESIGN and not idle_in_transaction:
            return
        if evidence not in self._settings.evidence or hold.site.ignored:
            if evidence is Evidence.DROPPED:
                self._registry.lose(hold, at)
            return
        if hold.seen is None:
            hold.seen = {}
        hold.seen[evidence] = at
        if evidence is Evidence.DROPPED:
            self._dropped(hold, at)
        elif hold.leak is not None or not hold.is_open:
            return
        else:
            # What is overdue has been idle for long enough: it is judged at once, with whatever else is due.
            self._claim(hold, at if evidence is Evidence.OVERDUE else at + self._settings.grace)
            self.suspect(hold)

    def discarded(self, message: Discarded) -> None:
        """Writes were lost when their connection was released; in the watchdog's thread. Nothing is open."""
        hold = message.hold
        if Evidence.DISCARDED in self._settings.evidence and not hold.site.ignored:
            hold.seen = {Evidence.DISCARDED: hold.released} | (hold.seen or {})
            self._report(hold, Certainty.CONFIRMED, hold.released)
        hold.span = None

    def released(self, hold: Hold) -> None:
        """Listener of the registry: a released hold has no claim; a reported one has recovered."""
        self._claims.discard(hold)
        self._singletons.ended(hold)
        leak: Leak | None = hold.leak
        if leak is None:
            return
        with self._lock:
            counted = self._open.pop(leak.id, None)
            if counted is None:
                return
            if hold.outcome is Outcome.LOST and leak.pool is not None and not hold.reclaimed:
                # A pool never gets this slot back; a direct connection was closed as it was collected.
                self._lost[leak.function, leak.pool, leak.kind] += 1
        if hold.outcome is Outcome.RELEASED and hold.ending is not Ending.DISCARDED:
            # Where the leak was counted: ownership may have moved since.
            counted[1].recovered += 1
            _tell(self._on_recovered, leak)

    # --- deadlines of the watchdog -------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When the next claim is due, in monotonic seconds."""
        earliest = self._claims.earliest()
        return max(earliest, self._rest.until) if earliest is not None else None

    def work(self, now: float) -> None:
        """Judge the claims that are due at ``now``."""
        if now < self._rest.until:
            return
        due = self._claims.due(now)
        if due:
            started = self._spent()
            overdue: list[Claim] = []
            others: list[Claim] = []
            for claim in due:  # before any is judged: that may take the evidence back
                (overdue if Evidence.OVERDUE in (claim.hold.seen or ()) else others).append(claim)
            self._judge(overdue, now, overdue=True)
            self._judge(others, now)
            self._rest.had(self._spent() - started)

    # --- verdict -------------------------------------------------------------------------------------------

    def _claim(self, hold: Hold, when: float, tries: int = 0) -> None:
        self._claims.add(hold, when, tries)
        self._due(when)

    def _judge(self, claims: list[Claim], now: float, *, overdue: bool = False) -> None:
        for claim in claims:
            self.look(claim.hold)
        who = self._who([claim.hold for claim in claims], module_first=overdue)
        grace = self._settings.grace
        for _, _, tries, hold in claims:
            if not hold.is_open or hold.leak is not None or hold.tracked() is None or covered(hold):
                continue  # released meanwhile, reported, or dropped: then that message is on its way
            verdict = who.get(hold.number, Reach.NOBODY)
            singleton = self._is_singleton(hold, verdict)
            if singleton and overdue:
                # It may lie idle, but not be lost later: when it is idle for so long again it is judged anew.
                (hold.seen or {}).pop(Evidence.OVERDUE, None)
                self.idle_again(hold)
            elif singleton or not has_begun(hold) or (verdict is Reach.LIVE and not overdue):
                # Looked at again when the activation exits that can reach it, or in a while: it, or the
                # module, may let go before.
                self._claim(hold, self._next_look(hold, now, tries), tries + 1)
            elif tries and not overdue and (newest := max((hold.seen or {}).values())) + grace > now:
                # Whoever could release it until just now has exited: that is a fact of its own.
                self._claim(hold, newest + grace, tries)
            else:
                self._report(hold, Certainty.POSSIBLE, now)

    def _next_look(self, hold: Hold, now: float, tries: int) -> float:
        """When to look again: twice as late each time, but at the grace of each fact that came meanwhile."""
        grace = self._settings.grace
        seen: dict[Evidence, float] = hold.seen or {}
        due = [at + grace for at in list(seen.values()) if at + grace > now]
        return min([now + grace * min(1 << tries, _LONGEST_RECHECK), *due])

    def _found(self, hold: Hold, activation: Activation) -> None:
        self.watch(hold, activation)

    def _is_singleton(self, hold: Hold, verdict: Reach) -> bool:
        """Whether it is the only idle connection that its call site keeps in a module, or for its thread.

        A transaction on such a connection must be short. But it is no leak before it is overdue, or its
        thread, task or request is over: another function of the module may well commit it.
        """
        if verdict not in (Reach.MODULE, Reach.THREAD):
            return False
        if hold.within is not None:
            return not hold.scope_is_over and Evidence.OVERDUE not in (hold.seen or ())
        return self._singletons.is_one(hold, of_thread=verdict is Reach.THREAD)

    def _dropped(self, hold: Hold, at: float) -> None:
        if hold.leak is None and not covered(hold):
            self._report(hold, Certainty.CONFIRMED, at)
        self._registry.lose(hold, at)

    # --- report --------------------------------------------------------------------------------------------

    def _report(self, hold: Hold, certainty: Certainty, now: float) -> None:
        with self._lock:
            is_open = hold.is_open or hold.reclaimed or hold.ending is Ending.DISCARDED
            if not is_open or hold.leak is not None or hold.number in self._reporting:
                return  # at a shutdown two threads report
            self._reporting.add(hold.number)
        try:
            leak = hold.leak = self._describe(hold, certainty, now)
        except Exception:
            failed("report")
            return
        finally:
            with self._lock:
                self._reporting.discard(hold.number)
        cover(hold)
        totals = hold.totals
        totals.leaked += 1
        _tell(self._on_leak, leak)
        # Only now can it recover: nobody is told of a recovery before the leak.
        with self._lock:
            self._open[leak.id] = leak, totals
            self._reported.append(leak)
        if hold.outcome is not Outcome.HELD:
            # Released or lost while we were telling: do now what could not be done then.
            self.released(hold)

    def at_exit(self) -> list[Hold]:
        """The process ends: report what nobody could still release.

        Returns:
            The holds that somebody could still release; they are no leaks.
        """
        now = self._registry.clock()
        holds = [hold for hold in self._registry.holds() if hold.leak is None and hold.tracked() is not None]
        who = self._who(holds)
        spared: list[Hold] = []
        for hold in holds:
            verdict = who.get(hold.number, Reach.NOBODY)
            if hold.within is not None and (covered(hold) or verdict is Reach.LIVE or not loses(hold)):
                continue  # what ends with the process, and is no loss
            if hold.within is None and (
                verdict is Reach.LIVE or hold.by_design or self._is_singleton(hold, verdict)
            ):
                spared.append(hold)
            elif not hold.site.ignored and Evidence.PROCESS_EXITED in self._settings.evidence:
                hold.seen = {Evidence.PROCESS_EXITED: now} | (hold.seen or {})
                self._report(hold, Certainty.POSSIBLE, now)
        return spared

    def reported(self) -> list[Leak]:
        """The leaks reported by this process, oldest first; the last thousand."""
        with self._lock:
            return list(self._reported)

    def unreleased(self) -> Counter[tuple[str, str | None, Kind]]:
        """How many reported leaks are unreleased now, by function, pool and kind, with lost pool slots."""
        with self._lock:
            counts = Counter(self._lost)
            counts.update((leak.function, leak.pool, leak.kind) for leak, _ in self._open.values())
        return counts


def _tell(listeners: tuple[OnLeak, ...], leak: Leak) -> None:
    for listener in listeners:
        try:
            listener(leak)
        except Exception:
            failed(f"{getattr(listener, '__qualname__', listener)}")
