"""The OpenTelemetry instrumentor: starts and stops the one engine of this process (L4)."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from typing import Any

from opentelemetry import trace
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]

from otel_connleak import guard
from otel_connleak.config import load
from otel_connleak.engine import Engine
from otel_connleak.names import INSTRUMENTATION

_logger = logging.getLogger(INSTRUMENTATION)

_engine: Engine | None = None


def _after_fork() -> None:
    if _engine is not None:
        try:
            _engine.after_fork()
        except Exception:
            guard.failed("after_fork")


os.register_at_fork(after_in_child=_after_fork)


class ConnLeakInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """The OpenTelemetry instrumentor, loaded by ``opentelemetry-instrument`` or started by hand.

    ``instrument(tracer_provider=None, meter_provider=None, logger_provider=None, **settings)`` takes the
    settings of `otel_connleak.config.Settings` as keyword arguments; they go before the environment
    variables. A setting that is not valid is logged as an error and has its default. ``uninstrument()`` is
    the exact inverse.
    """

    def instrumentation_dependencies(self) -> Collection[str]:
        """No library is needed: an adapter is installed when its library is imported."""
        return ()

    def _instrument(self, **kwargs: Any) -> None:
        global _engine
        guard.forget()
        providers = {name: kwargs.pop(name, None) for name in _PROVIDERS}
        settings, refused = load(kwargs)
        for message in refused:
            _logger.error("%s", message)
        try:
            engine = Engine(settings, providers)
            _engine = engine
            engine.start(providers["tracer_provider"] or trace.get_tracer_provider())
        except Exception:
            # An exception here would abort the launcher's other instrumentations.
            guard.failed("instrument")

    def _uninstrument(self, **kwargs: Any) -> None:
        global _engine
        engine, _engine = _engine, None
        if engine is not None:
            engine.stop()


_PROVIDERS = ("tracer_provider", "meter_provider", "logger_provider")


def engine() -> Engine | None:
    """The running engine, for tests and for the command line; None while nothing is instrumented."""
    return _engine
