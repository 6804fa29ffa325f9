"""From evidence to leak: grace, who could still release it, fingerprint, repeats, recovery (L2)."""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from otel_connleak.callsite import CallSites
from otel_connleak.claim import Leak
from otel_connleak.config import Settings
from otel_connleak.fingerprints import Fingerprints
from otel_connleak.guard import failed
from otel_connleak.hold import Certainty, Evidence, Hold, Kind, Outcome, Transaction
from otel_connleak.reach import Reach, Reachability
from otel_connleak.registry import Registry
from otel_connleak.statements import shown

_MOST_KEPT: Final = 1_000
"""Reported leaks that `Leaks.reported` remembers."""
_LONGEST_RECHECK: Final = 16
"""A claim against which somebody stands is looked at again after the grace, then twice that, up to this."""

type OnLeak = Callable[[Leak], None]
"""Takes a new leak, or one that was reported and has been released after all."""


class Leaks:
    """Decides what is a leak and tells it once.

    Facts arrive in any thread through `note`; they are judged in the watchdog's thread, or at exit in the
    thread that ends the process.

    Args:
        new_id: gives the random part of a leak's id.
        wall: seconds since the epoch.
    """

    def __init__(
        self,
        registry: Registry,
        callsites: CallSites,
        reach: Reachability,
        settings: Settings,
        due: Callable[[float], None],
        new_id: Callable[[], str] = lambda: secrets.token_hex(4),
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._registry = registry
        self._callsites = callsites
        self._reach = reach
        self._settings = settings
        self._due = due
        self._new_id = new_id
        self._wall = wall
        self._fingerprints = Fingerprints(wall)
        self._on_leak: tuple[OnLeak, ...] = ()
        self._on_recovered: tuple[OnLeak, ...] = ()
        self.clear()

    def clear(self) -> None:
        """Begin anew, in a forked child."""
        self._lock = threading.RLock()
        self._claims: dict[int, tuple[float, int, Hold]] = {}
        self._fingerprints.clear()
        self._open: dict[str, Leak] = {}
        self._reporting: set[int] = set()
        self._kept: dict[tuple[str, int, str | None, int], Hold] = {}
        self._reported: deque[Leak] = deque(maxlen=_MOST_KEPT)
        self._lost: Counter[tuple[str, str | None, Kind]] = Counter()

    def listen(self, on_leak: Iterable[OnLeak], on_recovered: Iterable[OnLeak]) -> None:
        """Set who is told of leaks and of those that were released after all, in this order."""
        self._on_leak = tuple(on_leak)
        self._on_recovered = tuple(on_recovered)

    # --- facts ---------------------------------------------------------------------------------------------

    def note(self, hold: Hold, evidence: Evidence, at: float) -> None:
        """An observed fact about a hold, true since ``at`` (monotonic seconds). Any thread."""
        if evidence not in self._settings.evidence or hold.site.ignored:
            if evidence is Evidence.DROPPED:
                self._registry.lose(hold, at)
            return
        if hold.seen is None:
            hold.seen = {}
        hold.seen.setdefault(evidence, at)
        if evidence is Evidence.DROPPED:
            self._dropped(hold, at)
        elif hold.leak is not None or not hold.is_open:
            return
        elif evidence is Evidence.OVERDUE:
            self._judge([(hold, 0)], at, overdue=True)
        else:
            self._claim(hold, at + self._settings.grace, 0)

    def released(self, hold: Hold) -> None:
        """Listener of the registry: a released hold has no claim; a reported one has recovered."""
        with self._lock:
            self._claims.pop(hold.number, None)
            for thread in (0, hold.thread.ident):
                if self._kept.get((*_key(hold), thread)) is hold:
                    del self._kept[*_key(hold), thread]
        leak: Leak | None = hold.leak
        if leak is None:
            return
        with self._lock:
            if self._open.pop(leak.id, None) is None:
                return
            if hold.outcome is Outcome.LOST and leak.pool is not None:
                # A pool never gets this slot back; a direct connection was closed as it was collected.
                self._lost[leak.function, leak.pool, leak.kind] += 1
        if hold.outcome is Outcome.RELEASED:
            self._registry.totals.of_hold(hold).recovered += 1
            _tell(self._on_recovered, leak)

    # --- deadlines of the watchdog -------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When the next claim is due, in monotonic seconds."""
        with self._lock:
            return min((claim[0] for claim in self._claims.values()), default=None)

    def work(self, now: float) -> None:
        """Judge the claims that are due at ``now``."""
        with self._lock:
            due = [claim for claim in self._claims.values() if claim[0] <= now]
            for _, _, hold in due:
                del self._claims[hold.number]
        if due:
            self._judge([(hold, tries) for _, tries, hold in due], now)

    # --- verdict -------------------------------------------------------------------------------------------

    def _claim(self, hold: Hold, when: float, tries: int) -> None:
        with self._lock:
            self._claims.setdefault(hold.number, (when, tries, hold))
        self._due(when)

    def _judge(self, claims: list[tuple[Hold, int]], now: float, *, overdue: bool = False) -> None:
        who = self._who([hold for hold, _ in claims], module_first=overdue)
        for hold, tries in claims:
            if not hold.is_open or hold.leak is not None or hold.tracked() is None:
                continue  # released meanwhile, reported, or dropped: then that message is on its way
            verdict = who.get(hold.tracked.key, Reach.NOBODY)
            if self._is_singleton(hold, verdict):
                continue
            if verdict is Reach.LIVE and not overdue:
                delay = self._settings.grace * min(2**tries, _LONGEST_RECHECK)
                self._claim(hold, now + delay, tries + 1)
                continue
            self._report(hold, Certainty.POSSIBLE, now)

    def _who(self, holds: list[Hold], *, module_first: bool = False) -> dict[int, Reach]:
        targets = {hold.tracked.key: (hold.owner, hold.code) for hold in holds if hold.tracked() is not None}
        try:
            loops = self._registry.loops()
            return self._reach.who(targets, loops, module_first=module_first) if targets else {}
        except Exception:
            # A report that says "possible" is better than one that is lost.
            failed("search for who could release")
            return {}

    def _is_singleton(self, hold: Hold, verdict: Reach) -> bool:
        """Whether it is the only idle connection that its call site keeps in a module, or for its thread."""
        if verdict not in (Reach.MODULE, Reach.THREAD):
            return False
        key = (*_key(hold), hold.thread.ident if verdict is Reach.THREAD else 0)
        with self._lock:
            kept = self._kept.setdefault(key, hold)
            if kept is not hold and (not kept.is_open or kept.busy_since is not None):
                self._kept[key] = kept = hold
        return kept is hold

    def _dropped(self, hold: Hold, at: float) -> None:
        if hold.leak is None:
            self._report(hold, Certainty.CONFIRMED, at)
        self._registry.lose(hold, at)

    # --- report --------------------------------------------------------------------------------------------

    def _report(self, hold: Hold, certainty: Certainty, now: float) -> None:
        with self._lock:
            if not hold.is_open or hold.leak is not None or hold.number in self._reporting:
                return  # at a shutdown two threads report
            self._reporting.add(hold.number)
        try:
            leak = hold.leak = self._leak(hold, certainty, now)
        except Exception:
            failed("report")
            return
        finally:
            with self._lock:
                self._reporting.discard(hold.number)
        self._registry.totals.of_hold(hold).leaked += 1
        _tell(self._on_leak, leak)
        # Only now can it recover: nobody is told of a recovery before the leak.
        with self._lock:
            self._open[leak.id] = leak
            self._reported.append(leak)
        if hold.outcome is not Outcome.HELD:
            # Released or lost while we were telling: do now what could not be done then.
            self.released(hold)

    def _leak(self, hold: Hold, certainty: Certainty, now: float) -> Leak:
        evidence = _ordered(hold.seen or {})
        fingerprint, occurrence, since = self._fingerprints.count(hold, evidence[0])
        pool = hold.pool
        return Leak(
            id=f"{fingerprint}-{self._new_id()}",
            fingerprint=fingerprint,
            function=hold.site.function,
            short=hold.site.short,
            file=hold.site.file,
            line=hold.site.line,
            kind=hold.kind,
            evidence=evidence,
            certainty=certainty,
            pool=pool.name if pool is not None else None,
            figures=pool.snapshot() if pool is not None else None,
            hint=pool.hint if pool is not None else "",
            facts=hold.tracked.facts,
            thread=hold.thread.name,
            task=hold.task_name,
            trace=f"{hold.trace:032x}" if hold.trace else None,
            use_time=hold.use_time(now),
            idle_time=hold.idle_time(now),
            calls=hold.calls,
            last_call_age=now - hold.last_call if hold.calls else None,
            transaction=_transaction(hold),
            statement=shown(hold.statement, self._settings.statements),
            in_full=self._settings.statements == "full",
            frames=tuple(self._callsites.frames(hold.stack)),
            detected=self._wall(),
            occurrence=occurrence,
            since=since,
            hold=hold,
        )

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
            verdict = who.get(hold.tracked.key, Reach.NOBODY)
            if verdict is Reach.LIVE or self._is_singleton(hold, verdict):
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
            counts.update((leak.function, leak.pool, leak.kind) for leak in self._open.values())
        return counts


def _tell(listeners: tuple[OnLeak, ...], leak: Leak) -> None:
    for listener in listeners:
        try:
            listener(leak)
        except Exception:
            failed(f"{getattr(listener, '__qualname__', listener)}")


def _key(hold: Hold) -> tuple[str, int, str | None]:
    return hold.site.function, hold.site.line, hold.pool.name if hold.pool is not None else None


def _ordered(seen: dict[Evidence, Any]) -> tuple[Evidence, ...]:
    """The evidence, in the order of `Evidence`: the one that proves most first."""
    return tuple(kind for kind in Evidence if kind in seen)


def _transaction(hold: Hold) -> Transaction:
    connection = hold.tracked()
    if connection is not None:
        try:
            return hold.tracked.transaction(connection)
        except Exception:
            failed("transaction status")
    return hold.transaction
