"""Reads everything that a report says of a hold, once (L1)."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from otel_connleak.callsite import CallSites
from otel_connleak.claim import Leak
from otel_connleak.config import Settings
from otel_connleak.connection import Transaction
from otel_connleak.fingerprints import Fingerprints
from otel_connleak.guard import failed
from otel_connleak.hold import Certainty, Evidence, Hold
from otel_connleak.statements import shown, summary


class Describe:
    """Makes a `Leak` of a hold against which something was observed. Thread-safe.

    Args:
        callsites: knows the application frames of a stack.
        settings: say how a statement may be shown.
        new_id: gives the random part of a leak's id.
        wall: seconds since the epoch.
    """

    def __init__(
        self,
        callsites: CallSites,
        settings: Settings,
        new_id: Callable[[], str] = lambda: secrets.token_hex(4),
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._callsites = callsites
        self._settings = settings
        self._new_id = new_id
        self._wall = wall
        self._fingerprints = Fingerprints(wall)

    def clear(self) -> None:
        """Count occurrences anew, in a forked child."""
        self._fingerprints.clear()

    def prepare(self) -> None:
        """Import what the first report needs, in the thread that starts the process.

        In the watchdog's thread a fork could come in between: the child would wait for ever for a lock of the
        import system that only the parent can let go.
        """
        if self._settings.statements == "summary":
            summary("")

    def __call__(self, hold: Hold, certainty: Certainty, now: float, why: str = "") -> Leak:
        """The leak as it is at ``now`` (monotonic seconds).

        The hold must have evidence, unless it is no leak and one word says ``why`` it is reported.
        """
        seen = hold.seen or {}
        # In the order of `Evidence`: the one that proves most comes first.
        evidence = () if why else tuple(kind for kind in Evidence if kind in seen)
        fingerprint, occurrence, since = self._fingerprints.count(hold, why or evidence[0])
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
            hint=pool.hint if pool is not None and hold.within is None else hold.tracked.hint,
            facts=hold.tracked.facts,
            thread=hold.thread.name,
            task=hold.task_name,
            trace=f"{hold.trace:032x}" if hold.trace else None,
            use_time=hold.use_time(now),
            idle_time=hold.idle_time(now),
            calls=hold.calls,
            last_call_age=now - hold.last_call if hold.calls else None,
            transaction=_transaction(hold),
            writes=getattr(hold.inner or hold, "writes", 0),
            statement=shown(hold.statement, self._settings.statements),
            in_full=self._settings.statements == "full",
            frames=tuple(self._callsites.frames(hold.stack)),
            detected=self._wall(),
            occurrence=occurrence,
            since=since,
            hold=hold,
        )


def _transaction(hold: Hold) -> Transaction:
    # One that has ended (the library took it back) may be in other hands by now.
    connection = hold.tracked() if hold.is_open else None
    if connection is not None:
        try:
            return hold.tracked.transaction(connection)
        except Exception:
            failed("transaction status")
    return hold.transaction
