"""Counters of leaks (L3). Not on the hot path: a leak is rare, and the rest is read on collection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from otel_connleak import names
from otel_connleak.claim import Leak
from otel_connleak.connection import Kind

type Unreleased = Callable[[], Counter[tuple[str, str | None, Kind]]]


class LeakMetrics:
    """``connleak.leaks`` counts reports; ``connleak.leaks.open`` is how many are unreleased now.

    Args:
        meter: the meter of the provider in use.
        unreleased: reported and unreleased leaks by function, pool and kind.
    """

    def __init__(self, meter: Meter, unreleased: Unreleased) -> None:
        self._unreleased: Unreleased | None = unreleased
        self._known: set[tuple[str, str | None, Kind]] = set()
        self._leaks = meter.create_counter(
            names.LEAKS_METRIC, unit="{leak}", description="Leaks reported, by the function to blame."
        )
        meter.create_observable_up_down_counter(
            names.LEAKS_OPEN_METRIC,
            [self._observe],
            unit="{leak}",
            description="Reported leaks that are unreleased now.",
        )

    def leak(self, leak: Leak) -> None:
        """Count a leak."""
        attributes = _attributes(leak.function, leak.pool, leak.kind)
        attributes[names.EVIDENCE] = str(leak.evidence[0])
        attributes[names.CERTAINTY] = str(leak.certainty)
        self._leaks.add(1, attributes)

    def stop(self) -> None:
        """Report nothing any more: an observable instrument cannot be taken from its meter."""
        self._unreleased = None

    def _observe(self, _options: CallbackOptions) -> Iterable[Observation]:
        if self._unreleased is None:
            return
        counts = self._unreleased()
        # A function whose leaks have all recovered is reported as zero, not left at its last value.
        self._known.update(counts)
        for function, pool, kind in sorted(self._known, key=str):
            yield Observation(counts[function, pool, kind], _attributes(function, pool, kind))


def _attributes(function: str, pool: str | None, kind: Kind) -> dict[str, str]:
    attributes = {names.CODE_FUNCTION_NAME: function, names.RESOURCE: str(kind)}
    if pool is not None:
        attributes[names.POOL_NAME] = pool
    return attributes
