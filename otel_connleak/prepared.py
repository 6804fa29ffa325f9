"""Prepared statements that are run by a call of its own, which is not told what it runs (L1).

The connections of mysql-connector have such calls: both halves of it, the one of asyncio too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from otel_connleak.patching import Patches
from otel_connleak.registry import Registry
from otel_connleak.verbs import Verb, verb_of


class PreparedStatements:
    """The hooks around preparing and running.

    Args:
        registry: has the holds.
        patches: of the adapter: while they are not active, nothing is remembered.
        calls: makes the hook of a driver call, from the original function and the ``verb`` of what it does.
    """

    def __init__(self, registry: Registry, patches: Patches, calls: Callable[..., Any]) -> None:
        self._registry = registry
        self._patches = patches
        self._calls = calls

    def prepares(self, original: Any) -> Any:
        """For a method of connections whose first argument is the statement that it prepares."""
        call = self._calls(original, verb=Verb.READ)

        @functools.wraps(original)
        def prepare(connection: Any, statement: Any, *args: Any, **kwargs: Any) -> Any:
            hold = self._registry.hold_of(connection)
            if hold is not None and self._patches.active:
                hold.statement = statement
            return call(connection, statement, *args, **kwargs)

        return prepare

    def runs(self, original: Any) -> Any:
        """For the method that runs what was prepared last."""
        reads, writes = self._calls(original, verb=Verb.READ), self._calls(original, verb=Verb.WRITE)

        @functools.wraps(original)
        def run(connection: Any, *args: Any, **kwargs: Any) -> Any:
            hold = self._registry.hold_of(connection)
            call = writes if hold is not None and verb_of(hold.statement) is Verb.WRITE else reads
            return call(connection, *args, **kwargs)

        return run
