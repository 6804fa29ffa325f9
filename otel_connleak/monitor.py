"""One tool of `sys.monitoring` (PEP 669): its id, its callbacks, the events that it has switched on (L1)."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Mapping
from types import CodeType
from typing import Any, Final

from otel_connleak.names import INSTRUMENTATION

# 0, 1 and 2 are reserved for debuggers, coverage and profilers, whose start would fail if we sat there.
_TOOL_IDS: Final = (4, 3, 5)


class Monitor:
    """`take` and `give_back` are exact inverses and idempotent; only `add` is for any thread."""

    def __init__(self) -> None:
        self._tool: int | None = None
        self._events: tuple[int, ...] = ()
        self._codes: dict[tuple[int, int], weakref.ref[CodeType]] = {}
        self._globally = 0

    @property
    def taken(self) -> bool:
        """Whether a tool id has been taken."""
        return self._tool is not None

    def take(self, callbacks: Mapping[int, Callable[..., Any]]) -> str | None:
        """Take a free tool id.

        Args:
            callbacks: by event, what is called for it.

        Returns:
            None, or the reason why there is none.
        """
        monitoring = sys.monitoring
        for tool in _TOOL_IDS:
            try:
                monitoring.use_tool_id(tool, INSTRUMENTATION)
            except ValueError:
                continue
            self._tool, self._events = tool, tuple(callbacks)
            for event, callback in callbacks.items():
                monitoring.register_callback(tool, event, callback)
            return None
        taken = ", ".join(str(monitoring.get_tool(tool)) for tool in _TOOL_IDS)
        return f"all free tool ids of sys.monitoring are taken ({taken})"

    def give_back(self) -> None:
        """Give the tool id back, with all events off."""
        tool, self._tool = self._tool, None
        if tool is None:
            return
        monitoring = sys.monitoring
        monitoring.set_events(tool, monitoring.events.NO_EVENTS)
        for reference in self._codes.values():
            code = reference()
            if code is not None:
                monitoring.set_local_events(tool, code, monitoring.events.NO_EVENTS)
        for event in self._events:
            monitoring.register_callback(tool, event, None)
        monitoring.free_tool_id(tool)
        self._codes.clear()
        self._globally = 0

    def add(self, code: CodeType, events: int, everywhere: int) -> None:
        """Switch events on for code, beside those that are on, and others for all code.

        Args:
            code: where ``events`` are switched on.
            events: local events of `sys.monitoring`.
            everywhere: global ones.
        """
        tool, key = self._tool, (id(code), events)
        known = self._codes.get(key)
        if tool is None or (known is not None and known() is code):
            return
        monitoring = sys.monitoring
        monitoring.set_local_events(tool, code, monitoring.get_local_events(tool, code) | events)
        self._codes[key] = weakref.ref(code)
        if self._globally != everywhere:
            self._globally = everywhere
            monitoring.set_events(tool, everywhere)
