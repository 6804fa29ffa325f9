"""Names the repository function that did not give its database connection back, or left its transaction open.

An OpenTelemetry auto-instrumentation: start the service with ``opentelemetry-instrument``, and change no line
of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_connleak.expect import expect_long_hold
from otel_connleak.version import __version__

if TYPE_CHECKING:
    from otel_connleak.api import (
        FunctionStats,
        OpenHold,
        function_stats,
        leaks,
        open_holds,
        trace_dbapi,
        untrace_dbapi,
    )
    from otel_connleak.claim import Leak
    from otel_connleak.instrumentor import ConnLeakInstrumentor
    from otel_connleak.otel.processor import ConnLeakSpanProcessor

__all__ = [
    "ConnLeakInstrumentor",
    "ConnLeakSpanProcessor",
    "FunctionStats",
    "Leak",
    "OpenHold",
    "__version__",
    "expect_long_hold",
    "function_stats",
    "leaks",
    "open_holds",
    "trace_dbapi",
    "untrace_dbapi",
]

_HOMES = {
    "ConnLeakInstrumentor": "instrumentor",
    "ConnLeakSpanProcessor": "otel.processor",
    "FunctionStats": "api",
    "Leak": "claim",
    "OpenHold": "api",
    "function_stats": "api",
    "leaks": "api",
    "open_holds": "api",
    "trace_dbapi": "api",
    "untrace_dbapi": "api",
}


def __getattr__(name: str) -> Any:
    """Import on first use: the span processor needs the SDK, which may not be installed."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
