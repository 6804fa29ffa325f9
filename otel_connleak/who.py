"""Who could release these holds, and how much of a processor it may take to find out (L1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from otel_connleak.connection import Kind
from otel_connleak.frames import Activation
from otel_connleak.guard import failed
from otel_connleak.hold import Hold
from otel_connleak.reach import Reach, Reachability
from otel_connleak.registry import Registry

_SHARE: Final = 0.2
"""Of one processor: what the searches may take in the long run. They rest when they have had more."""
_SAVED: Final = 0.1
"""Seconds of a processor that they may save up: two claims in a row need not wait for each other then."""


class Who:
    """Asks for holds, not for connections. For the watchdog's thread, or at exit.

    Args:
        registry: knows the event loops.
        reach: searches.
        watch: told of a hold and of a live activation that can reach it.
    """

    def __init__(
        self, registry: Registry, reach: Reachability, watch: Callable[[Hold, Activation], None]
    ) -> None:
        self._registry = registry
        self._reach = reach
        self._watch = watch

    def __call__(self, holds: list[Hold], *, module_first: bool = False) -> dict[int, Reach]:
        """Who can release each of these, by their number. Never raises: who is not found is nobody.

        Args:
            holds: connections, transactions and cursors.
            module_first: what both a live activation and a module can reach counts as module state.
        """
        answers: dict[int, Reach] = {}
        # A transaction is ended by whoever reaches its connection, which may be asked about as well.
        for each in (
            [hold for hold in holds if hold.kind is not Kind.TRANSACTION],
            [hold for hold in holds if hold.kind is Kind.TRANSACTION],
        ):
            alive = {hold.tracked.key: hold for hold in each if hold.tracked() is not None}
            found = self._search(alive, module_first=module_first) if alive else {}
            answers |= {hold.number: found.get(hold.tracked.key, Reach.NOBODY) for hold in each}
        return answers

    def _search(self, alive: dict[int, Hold], *, module_first: bool) -> dict[int, Reach]:
        try:
            return self._reach.who(
                {key: (hold.owner, hold.code) for key, hold in alive.items()},
                self._registry.loops(),
                module_first=module_first,
                found_in=lambda key, activation: self._watch(alive[key], activation),
                unseen={key for key, hold in alive.items() if hold.unseen},
                over={key for key, hold in alive.items() if hold.scope_is_over},
                skip={identity for hold in alive.values() for identity in hold.skipped},
            )
        except Exception:
            # A report that says "possible" is better than one that is lost.
            failed("search for who could release")
            return {}


class Rest:
    """When there is to be a search again.

    Args:
        clock: monotonic seconds.

    Attributes:
        until: no search before, in monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._may_spend = _SAVED
        self._since = clock()
        self.until = 0.0

    def had(self, spent: float) -> None:
        """Searches have taken ``spent`` seconds of a processor."""
        now = self._clock()
        saved = self._may_spend + _SHARE * (now - self._since)
        self._may_spend = min(saved, _SAVED) - spent
        self._since = now
        self.until = now + max(0.0, -self._may_spend) / _SHARE
