"""What each function did with each pool, in counts and seconds (L0)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from otel_connleak.connection import Account, Kind
from otel_connleak.hold import CallSite, Ending, Hold, Outcome
from otel_connleak.native import RLock

_DISCARDED: Final = Ending.DISCARDED
_MOST_FUNCTIONS: Final = 10_000
"""Functions with totals of their own; the rest shares one entry (bounded memory, DESIGN section 6)."""
OTHER_FUNCTIONS: Final = "(other functions)"
"""The function's name in the entry that the rest shares."""


@dataclass(slots=True, eq=False)
class FunctionTotals:
    """What one function did with one pool since the start; counts, and seconds for times."""

    function: str
    pool: str | None
    kind: Kind = Kind.CONNECTION
    acquired: int = 0
    released: int = 0
    lost: int = 0
    leaked: int = 0
    recovered: int = 0
    discarded: int = 0
    longest: float = 0.0
    use_time: float = 0.0

    @property
    def open(self) -> int:
        """Holds of this function that are open now: what is left of the acquired ones."""
        return self.acquired - self.released - self.lost

    def ended(self, hold: Hold, sign: int = 1) -> None:
        """Count a hold that was released or lost; ``sign`` -1 takes it back. Under the registry's lock."""
        use = hold.released - hold.acquired
        if hold.ending is _DISCARDED and hold.within is not None:
            self.discarded += sign
        if hold.outcome is Outcome.LOST:
            self.lost += sign
        else:
            self.released += sign
            self.use_time += sign * use
        if use > self.longest:
            self.longest = use


class Totals:
    """The totals of all functions. Thread-safe; what `of` returns is changed under the registry's lock."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin anew; also after a fork, when the lock may have been held by a thread that is not here."""
        self._lock = RLock()
        self._totals: dict[tuple[str, Account], FunctionTotals] = {}

    def of(self, site: CallSite, account: Account) -> FunctionTotals:
        """The totals of a call site's function with a pool; remembered at the site, because this is hot."""
        found: FunctionTotals | None = site.totals.get(account)
        return found if found is not None else self._first(site, account)

    def all(self) -> list[FunctionTotals]:
        """The totals by function and pool, as they are now (live objects: copy what is kept)."""
        with self._lock:
            return list(self._totals.values())

    def _first(self, site: CallSite, account: Account) -> FunctionTotals:
        pool, kind = account if isinstance(account, tuple) else (account, Kind.CONNECTION)
        with self._lock:
            totals = self._totals.get((site.function, account))
            if totals is None:
                function = site.function if len(self._totals) < _MOST_FUNCTIONS else OTHER_FUNCTIONS
                totals = FunctionTotals(function, pool, kind)
                totals = self._totals.setdefault((function, account), totals)
            if len(site.totals) >= _MOST_FUNCTIONS:
                site.totals.clear()
            site.totals[account] = totals
        return totals
