"""Counters of leaks and of lost writes (L3). Not on the hot path: what is not rare is read on collection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from otel_connleak import names
from otel_connleak.claim import Leak
from otel_connleak.connection import Kind
from otel_connleak.totals import FunctionTotals

type Unreleased = Callable[[], Counter[tuple[str, str | None, Kind]]]


class LeakMetrics:
    """``connleak.leaks`` counts reports; ``connleak.leaks.open`` is how many are unreleased now.

    ``connleak.transactions.discarded`` counts all of them, reported or not.

    Args:
        meter: the meter of the provider in use.
        unreleased: reported and unreleased leaks by function, pool and kind.
        totals: what each function did with each pool.
    """

    def __init__(
        self, meter: Meter, unreleased: Unreleased, totals: Callable[[], list[FunctionTotals]]
    ) -> None:
        self._unreleased = unreleased
        self._totals = totals
        self._known: set[tuple[str, str | None, Kind]] = set()
        self._leaks = meter.create_counter(
            names.LEAKS_METRIC, unit="{leak}", description="Leaks reported, by the function to blame."
        )
        meter.create_observable_up_down_counter(
            names.LEAKS_OPEN_METRIC,
            [_observe_open],
            unit="{leak}",
            description="Reported leaks that are unreleased now.",
        )
        meter.create_observable_counter(
            names.DISCARDED_METRIC,
            [_observe_discarded],
            unit="{transaction}",
            description="Transactions whose writes were lost because their connection was released.",
        )

    def leak(self, leak: Leak) -> None:
        """Count a leak."""
        attributes = _attributes(leak.function, leak.pool, leak.kind)
        attributes[names.EVIDENCE] = str(leak.evidence[0])
        attributes[names.CERTAINTY] = str(leak.certainty)
        self._leaks.add(1, attributes)

    def start(self) -> None:
        """From now on collections read what is here."""
        global _running
        _running = self

    def stop(self) -> None:
        """Report nothing any more: an observable instrument cannot be taken from its meter."""
        global _running
        if _running is self:
            _running = None

    def observe_open(self) -> Iterable[Observation]:
        """Reported leaks that are unreleased now."""
        counts = self._unreleased()
        # A function whose leaks have all recovered is reported as zero, not left at its last value.
        self._known.update(counts)
        for function, pool, kind in sorted(self._known, key=str):
            yield Observation(counts[function, pool, kind], _attributes(function, pool, kind))

    def observe_discarded(self) -> Iterable[Observation]:
        """Transactions whose writes were lost."""
        for totals in self._totals():
            if totals.discarded:
                attributes = _attributes(totals.function, totals.pool, totals.kind)
                yield Observation(totals.discarded, attributes)


_running: LeakMetrics | None = None
"""The one that runs. An instrument keeps the callback with which it was made first, for ever."""


def _observe_open(_options: CallbackOptions) -> Iterable[Observation]:
    return _running.observe_open() if _running is not None else ()


def _observe_discarded(_options: CallbackOptions) -> Iterable[Observation]:
    return _running.observe_discarded() if _running is not None else ()


def _attributes(function: str, pool: str | None, kind: Kind) -> dict[str, str]:
    attributes = {names.CODE_FUNCTION_NAME: function, names.RESOURCE: str(kind)}
    if pool is not None:
        attributes[names.POOL_NAME] = pool
    return attributes
