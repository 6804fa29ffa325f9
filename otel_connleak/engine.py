"""The only place where things are wired: settings, registry, evidence, listeners, adapters (L4)."""

from __future__ import annotations

import atexit
import logging
import time
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

import wrapt
from opentelemetry import _logs, metrics, trace

from otel_connleak import guard, runtime
from otel_connleak.adapters import ENTRY_POINTS, Adapter
from otel_connleak.callsite import CallSites
from otel_connleak.collector import Collector
from otel_connleak.config import Settings
from otel_connleak.connection import Tracked
from otel_connleak.describe import Describe
from otel_connleak.evidence.dropped import Dropped, OnlyInPool, Suspect
from otel_connleak.evidence.ended import EndedTasks, EndedThreads, EndedTraces, TaskEnd
from otel_connleak.evidence.exits import Exits
from otel_connleak.evidence.overdue import Overdue
from otel_connleak.expect import expected
from otel_connleak.hold import Evidence, ThreadRecord
from otel_connleak.holding import Reclaimed
from otel_connleak.holds_socket import HoldsSocket
from otel_connleak.leak import Leaks
from otel_connleak.listeners import Listener, Listeners
from otel_connleak.names import INSTRUMENTATION
from otel_connleak.native import Latch
from otel_connleak.otel import queries
from otel_connleak.otel.dbapi import TracedModules
from otel_connleak.otel.events import LeakEvents
from otel_connleak.otel.histograms import Full, Histograms
from otel_connleak.otel.metrics import LeakMetrics
from otel_connleak.otel.spans import HoldSpans, LeakSpans
from otel_connleak.reach import Reachability
from otel_connleak.references import counts_are_exact
from otel_connleak.registry import Registry
from otel_connleak.report import LeakLog
from otel_connleak.snapshot import as_json
from otel_connleak.threads import Threads
from otel_connleak.transactions import Discarded
from otel_connleak.unnecessary import Released, Unnecessary, write
from otel_connleak.version import __version__
from otel_connleak.watchdog import Watchdog

_logger = logging.getLogger(INSTRUMENTATION)

_FLUSH_SETTLE = 0.03
"""Seconds that a flush waits for drops that are still to be judged."""


class Engine:
    """One running instrumentation of this process: all that `ConnLeakInstrumentor` starts and stops."""

    def __init__(self, settings: Settings, providers: dict[str, Any]) -> None:
        clock = time.monotonic
        self.settings = settings
        self.watchdog = Watchdog(clock)
        self.callsites = CallSites(settings)
        self.registry = Registry(
            self.callsites.locate,
            self._threads().current,
            clock,
            self.watchdog.put,
            self.watchdog.due,
        )
        self.registry.expect_long = expected
        reach = Reachability(self.callsites.is_application_module)
        describe = Describe(self.callsites, settings)
        describe.prepare()
        self.leaks = Leaks(self.registry, describe, reach, settings, self.watchdog.due)
        self.log = LeakLog()
        self._describe = describe
        self._wire_evidence()
        self._wire_listeners(providers)
        self._adapters: list[Adapter] = []
        self._with_adapter: set[str] = set()
        self._processor: Any = None
        self._provider: Any = None
        self._spared: set[int] = set()
        self.socket = HoldsSocket(lambda: as_json(self.registry, settings.statements), on=settings.socket)
        self.active = False

    def _threads(self) -> Threads:
        return Threads(time.monotonic, self._put)

    def _put(self, message: object) -> None:
        # Looked up each time: after a fork the watchdog has another inbox.
        self.watchdog.put(message)

    def _wire_evidence(self) -> None:
        note, registry, watchdog = self.leaks.note, self.registry, self.watchdog
        self._collector = Collector()
        self._exits = Exits(registry, self.callsites, note)
        self.leaks.watch = self._exits.watch
        dropped = Dropped(registry, note, watchdog.after, self._collector, self.settings.grace)
        only_in_pool = OnlyInPool(registry, note, watchdog.after, self._put)
        if counts_are_exact():
            self.leaks.suspect, self.leaks.look = only_in_pool.suspect, only_in_pool.look
        else:
            _logger.info(
                "evidence dropped is off for connections that their own pool keeps: this interpreter runs "
                "without its lock, and so its reference counts are not exact"
            )
        self._overdue = Overdue(registry, note, self.settings.overdue_after)
        self._tasks = EndedTasks(note, registry.clock, lambda: watchdog.put)
        self._traces = EndedTraces(note, registry.clock)
        watchdog.handle(
            {
                Tracked: dropped.died,
                Reclaimed: dropped.reclaimed,
                Discarded: self.leaks.discarded,
                ThreadRecord: EndedThreads(note).ended,
                TaskEnd: self._tasks.ended,
                Suspect: only_in_pool.suspected,
                Latch: self._flushed,
            }
        )
        watchdog.watch(self._overdue, self.leaks)

    def _wire_listeners(self, providers: dict[str, Any]) -> None:
        tracer = trace.get_tracer(INSTRUMENTATION, __version__, providers.get("tracer_provider"))
        meter = metrics.get_meter(INSTRUMENTATION, __version__, providers.get("meter_provider"))
        events = LeakEvents(_logs.get_logger(INSTRUMENTATION, __version__, providers.get("logger_provider")))
        self._spans = HoldSpans(tracer, self.settings)
        self._queries = queries.QuerySpans(self.registry)
        self.dbapi = TracedModules(self.registry, providers)
        self._metrics = LeakMetrics(meter, self.leaks.unreleased, self.registry.totals.all)
        self._histograms = Histograms(meter, self._put)
        self._unnecessary = Unnecessary(self.settings.idle_after, self.registry.clock, self._put)
        self._unnecessary.report(self._describe, [write, events.idle])
        self.leaks.idle_again = self._unnecessary.sparing(self._overdue.again)
        self.watchdog.handle({Full: self._histograms.full, Released: self._unnecessary.judge})
        self.leaks.listen(
            (self.log.leak, LeakSpans(tracer).leak, events.leak, self._metrics.leak),
            (self.log.recovered, events.recovered),
        )

    def start(self, provider: Any) -> None:
        """Hook the libraries and begin to watch. ``provider`` gets our span processor if it takes one."""
        kinds, traces = self.settings.evidence, self._traces
        always: list[Listener] = [self._spans, *self._unnecessary.listeners]
        if Evidence.FUNCTION_EXITED in kinds:
            refused = self._exits.install()
            if refused is None:
                always.append(self._exits)
            else:
                _logger.warning("evidence function_exited is off: %s", refused)
        self.registry.listeners = Listeners(
            always,
            in_task=[self._tasks] if Evidence.TASK_ENDED in kinds else [],
            in_trace=[traces] if Evidence.TRACE_ENDED in kinds else [],
            claimed=[self.leaks.released, self._exits.unwatch],
            moved=[self._spans.moved],
            ended=[self._histograms.ended],
        )
        self._histograms.start()
        self._metrics.start()
        runtime.current = runtime.Runtime(
            traces.started, traces.ended, self.flush, self.shutdown, self._unnecessary.on_call
        )
        self._add_processor(provider)
        self.active = True
        self._collector.install()
        atexit.register(self.at_exit)
        for module in queries.MODULES:  # before the adapters, which would hide what was instrumented already
            wrapt.register_post_import_hook(self._hook_queries, module)
        for entry_point in entry_points(group=ENTRY_POINTS):
            self._add_adapter(entry_point)
        self.dbapi.start(self._with_adapter)
        self.socket.start()

    def stop(self) -> None:
        """Give back the hooked functions and stop watching; what is held now is forgotten. Never raises."""
        self.active = False
        runtime.current = None
        steps: list[Callable[[], object]] = [
            self.socket.stop,
            *(adapter.uninstall for adapter in self._adapters),
            self.dbapi.stop,
            self._collector.uninstall,
            self._queries.uninstall,
            lambda: atexit.unregister(self.at_exit),
            self.watchdog.stop,
            self._exits.uninstall,
            self._metrics.stop,
            self._histograms.stop,
            lambda: self._spans.end_at_exit(self.registry.holds(), self.registry.clock()),
            self._remove_processor,
        ]
        for step in steps:
            try:
                step()
            except Exception:
                guard.failed("uninstrument")
        self.registry.listeners = Listeners()

    def flush(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds until what was observed so far has been reported."""
        if not self.watchdog.running:
            return True
        done = Latch()
        self.watchdog.put(done)
        return done.wait(timeout)

    def shutdown(self) -> None:
        """The tracer provider shuts down: report what nobody can release any more."""
        self.flush(2.0)
        self._report_the_rest()

    def at_exit(self) -> None:
        """The interpreter exits. Runs before the provider's exit handler, which was registered earlier."""
        try:
            self.watchdog.stop(timeout=5.0)
            self.watchdog.drain()
            self._report_the_rest()
        except Exception:
            guard.failed("at_exit")

    def after_fork(self) -> None:
        """Begin anew in a forked child."""
        self.watchdog.after_fork()
        self.callsites.forget()
        self.registry.after_fork(self._threads().current, self.watchdog.put)
        self._overdue.clear()
        self._exits.clear()
        self._traces.clear()
        self.leaks.clear()
        self._histograms.clear()
        self._unnecessary.clear()
        self.dbapi.after_fork()
        self._collector.after_fork()
        self.socket.after_fork()

    def _report_the_rest(self) -> None:
        spared = [hold for hold in self.leaks.at_exit() if hold.number not in self._spared]
        self._spared.update(hold.number for hold in spared)
        self.log.spared([hold for hold in spared if not hold.site.ignored])
        self._spans.end_at_exit(self.registry.holds(), self.registry.clock())

    def _flushed(self, done: Latch) -> None:
        if not self.watchdog.has_timers:
            done.open()
            return
        self.watchdog.after(self.registry.clock() + _FLUSH_SETTLE, done.open)

    def _add_processor(self, provider: Any) -> None:
        """Add our span processor, in front: at shutdown its reports must find the exporters still running."""
        if not hasattr(provider, "add_span_processor"):
            return
        from otel_connleak.otel import processor  # here, because the SDK may not be installed

        self._provider, self._processor = provider, processor.ConnLeakSpanProcessor()
        processor.add_in_front(provider, self._processor)

    def _remove_processor(self) -> None:
        if self._processor is not None:
            from otel_connleak.otel.processor import take_out

            take_out(self._provider, self._processor)

    def _add_adapter(self, entry_point: Any) -> None:
        try:
            adapter: Adapter = entry_point.load()()
            self.callsites.add_library(adapter.module)
        except Exception as error:
            _logger.error(
                "adapter %s cannot be loaded: %s: %s", entry_point.name, type(error).__name__, error
            )
            return

        def install(_module: Any) -> None:
            if self.active:
                self._install(entry_point.name, adapter)

        self._with_adapter.add(adapter.module.partition(".")[0])
        wrapt.register_post_import_hook(install, adapter.module)

    def _hook_queries(self, module: Any) -> None:
        if self.active:
            self._queries.install(module)

    def _install(self, name: str, adapter: Adapter) -> None:
        try:
            adapter.install(self.registry, self.settings)
            self._adapters.append(adapter)
        except Exception as error:
            adapter.uninstall()
            _logger.error(
                "adapter %s does not fit the installed library and is off: %s: %s",
                name,
                type(error).__name__,
                error,
            )
