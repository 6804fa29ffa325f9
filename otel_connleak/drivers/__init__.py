"""What can be read from each driver's connections without a round trip, one file a driver (L1).

Adapters of pools use these too: a pool does not know its driver, but its connections do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from otel_connleak.connection import Facts, Transaction


class Driver(NamedTuple):
    """How to read one driver's connections; both functions may raise on a broken connection."""

    facts: Callable[[Any], Facts]
    transaction: Callable[[Any], Transaction]
