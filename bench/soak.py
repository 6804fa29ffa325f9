"""Runs an application at full speed, some of whose functions leak: ``python -m bench.soak [--minutes 10]``.

Prints a line a minute, and at the end says whether memory stayed flat, nothing is left open, each leak was
reported once, and transactions are counted exactly; the exit status is 1 where one of these is not so. Ctrl-C
ends it early, with the same end.
"""

import argparse
import gc
import logging
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from opentelemetry import _logs, metrics, trace
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from bench import soak_application as application
from bench import soak_kept
from bench import soak_transactions as transactions
from bench.soak_load import ASYNCPG_POOL_SIZE, PATIENCE, POOL_SIZE, TASKS, THREADS, Load, Reports
from bench.worker import ThrowAway
from otel_connleak import ConnLeakInstrumentor, function_stats, guard, leaks, names, open_holds
from otel_connleak.connection import Tracked
from otel_connleak.hold import CallSite, Hold, ThreadRecord
from otel_connleak.instrumentor import engine
from otel_connleak.nested import CursorHold, TransactionHold
from tests.support.postgres import embedded_postgres, fresh_schema

GRACE = 1.0
LIBRARIES = "bench.soak,bench.soak_load,bench.soak_kept"
OURS = (Hold, TransactionHold, CursorHold, Tracked, CallSite, ThreadRecord)
MEMORY_TOLERANCE = 16.0
"""MiB that the process may have grown since the first fifth. A thousand reports that are remembered, which
take longer than that to gather in a short run, are 5 of them."""
LEFT_OVER = 100
"""Objects of one kind that may be alive at the end, beside those of the reports that are remembered: those of
the connections, threads and activations that were the last ones."""


def rss() -> float:
    """Resident memory in MiB: now on Linux, else the most so far."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


def objects() -> Counter[str]:
    """How many of our own objects are alive, by type."""
    gc.collect()
    return Counter(type(thing).__name__ for thing in gc.get_objects() if type(thing) in OURS)


def configure(reports: Reports) -> InMemoryMetricReader:
    """The global providers of a service, whose exporters throw away; log events are counted.

    Returns:
        What collects the metrics when it is asked to.
    """
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(BatchSpanProcessor(ThrowAway()))
    trace.set_tracer_provider(tracers)
    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider([reader], shutdown_on_exit=False))
    loggers = LoggerProvider(shutdown_on_exit=False)
    loggers.add_log_record_processor(BatchLogRecordProcessor(reports, schedule_delay_millis=100))
    _logs.set_logger_provider(loggers)
    # Only our own failures: the reports are not looked at here, and there are a lot of them.
    logging.getLogger("otel_connleak").setLevel(logging.ERROR)
    # "rolling back returned connection", thousands of times.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    return reader


class Soak:
    """One run, and what it has measured."""

    def __init__(self, load: Load, reports: Reports, minutes: float) -> None:
        self.load = load
        self.reports = reports
        self.seconds = minutes * 60
        self.began = time.monotonic()
        self.first: tuple[float, Counter[str]] | None = None
        self.last: tuple[float, Counter[str]] = 0.0, Counter()

    def run(self) -> None:
        """Until the time is over, or somebody interrupts."""
        self.load.start()
        told = 0
        try:
            while (passed := time.monotonic() - self.began) < self.seconds and not self.load.errors:
                time.sleep(min(1.0, self.seconds - passed))
                if self.first is None and passed > self.seconds / 5:
                    self.first = rss(), objects()
                    self.tell("first fifth")
                if passed // 60 > told:
                    told = int(passed // 60)
                    self.tell(f"minute {told}")
        except KeyboardInterrupt:
            print("interrupted: the summary follows", flush=True)
        self.last = rss(), objects()
        self.tell("the end")

    def tell(self, when: str) -> None:
        """One line, and one for the reports."""
        cycles, passed = sum(self.load.cycles), time.monotonic() - self.began
        holds = len(open_holds())
        print(
            f"{when}: {cycles:,} cycles, {cycles / passed:,.0f} a second · {rss():.1f} MiB · "
            f"{objects()['Hold']} Hold objects, {holds} open · {sum(self.load.expected.values())} leaks, "
            f"{self.reports.leaks.total()} reported, {self.reports.recoveries.total()} recovered · "
            f"{self.reports.discarded.total()} discarded transactions reported",
            flush=True,
        )

    def settle(self) -> None:
        """Wait until all that leaked is reported, and all that can be is given back."""
        self.load.stop()
        discarded = transactions.Expected(self.load.calls).discarded.total()
        wait(lambda: self.reports.leaks.total() >= self.load.expected.total())
        wait(lambda: self.reports.discarded.total() >= discarded)
        wait(lambda: self.reports.recoveries.total() >= self.recoveries_expected().total())
        wait(lambda: soak_kept.count() == 0)
        self.load.end()
        wait(lambda: not open_holds())

    def recoveries_expected(self) -> Counter[str]:
        """How often each function must have recovered."""
        expected = self.load.expected
        return Counter({name: expected[name] for name in application.RECOVER if expected[name]})

    def print_reports(self) -> None:
        """Expected and got, by function, and how long a connection was held until it was reported."""
        print(f"\n{'function':32}{'leaked':>10}{'reported':>10}{'recovered':>11}{'slowest':>10}")
        for function in sorted({*self.load.expected, *self.reports.leaks}):
            print(
                f"{function:32}{self.load.expected[function]:10}{self.reports.leaks[function]:10}"
                f"{self.reports.recoveries[function]:11}{self.reports.slowest.get(function, 0.0):8.2f} s"
            )

    def print_transactions(self) -> None:
        """Begun, discarded and reported, by the function that begins them."""
        expected, reports = transactions.Expected(self.load.calls), self.reports
        print(f"\n{'function':32}{'transactions':>13}{'discarded':>11}{'reported':>10}{'writes lost':>13}")
        for function, begun in expected.transactions.items():
            print(
                f"{function:32}{begun:13}{expected.discarded[function]:11}{reports.discarded[function]:10}"
                f"{reports.lost[function]:13}"
            )


def wait(condition: Callable[[], bool]) -> None:
    """Wait until something is so, but not for ever."""
    deadline = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)


def idle_wakes() -> int:
    """How often the watchdog wakes in two seconds in which nothing is held.

    A deadline that was set for the last holds wakes it once more, whether they have ended or not. So these
    two seconds are looked for until it would have been overdue twice over.
    """
    running = engine()
    assert running is not None
    gc.collect()  # the connections of the closed pools: the watchdog is told of each that dies
    running.flush(5.0)
    deadline = time.monotonic() + 2 * running.settings.overdue_after + 4.0
    while True:
        before = running.watchdog.wakes
        time.sleep(2.0)
        woke = running.watchdog.wakes - before
        if not woke or time.monotonic() > deadline:
            return woke


def verdict(soak: Soak, left: Counter[str], wakes: int) -> Iterator[str]:
    """A sentence for everything that is not as it must be."""
    load, reports = soak.load, soak.reports
    running = engine()
    assert running is not None
    yield from (f"the application failed: {error}" for error in load.errors)
    yield from reports.wrong
    if load.expected != reports.leaks:
        yield f"leaked {dict(load.expected)}, but reported {dict(reports.leaks)}"
    if soak.recoveries_expected() != reports.recoveries:
        yield f"recovered {dict(reports.recoveries)}, not {dict(soak.recoveries_expected())}"
    if open_holds():
        yield f"still open: {open_holds()[:3]}"
    if running.leaks.next_deadline() is not None:
        yield "there is a claim left although nothing is held"
    if wakes:
        yield f"the watchdog woke {wakes} times although nothing is held"
    if guard.failures():
        yield f"our own failures: {guard.failures()}"
    if soak.first is not None and soak.last[0] - soak.first[0] > MEMORY_TOLERANCE:
        yield f"memory grew from {soak.first[0]:.1f} to {soak.last[0]:.1f} MiB since the first fifth"
    allowed = len(leaks()) + LEFT_OVER
    yield from (f"{count} {name} objects are alive" for name, count in left.items() if count > allowed)


def transactions_verdict(soak: Soak, reader: InMemoryMetricReader, dsn: str) -> Iterator[str]:
    """A sentence for every count of transactions that is not what was done."""
    expected, stats = transactions.Expected(soak.load.calls), function_stats()
    begun: Counter[str] = Counter()
    discarded: Counter[str] = Counter()
    for entry in stats:
        function = entry.function.rpartition(".")[2]
        discarded[function] += entry.discarded
        if function in expected.transactions:
            begun[function] += entry.transactions
        if entry.transactions_open:
            yield f"{entry.transactions_open} transactions of {function} are open"
    for what, counted, right in (
        ("reported as discarded", soak.reports.discarded, expected.discarded),
        ("reported as lost writes", soak.reports.lost, expected.lost),
        (names.DISCARDED_METRIC, discarded_metric(reader), expected.discarded),
        ("discarded in function_stats()", discarded, expected.discarded),
        ("transactions in function_stats()", begun, expected.transactions),
        ("rows on the server", transactions.committed(dsn), expected.rows),
    ):
        for function in {*counted, *right}:
            if counted[function] != right[function]:
                yield f"{what}: {counted[function]} of {function}, not {right[function]}"


def discarded_metric(reader: InMemoryMetricReader) -> Counter[str]:
    """What the counter of discarded transactions says now, by function."""
    counts: Counter[str] = Counter()
    data = reader.get_metrics_data()
    for resource in data.resource_metrics if data is not None else ():
        for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
            for point in metric.data.data_points if metric.name == names.DISCARDED_METRIC else ():
                assert isinstance(point, NumberDataPoint)
                function = str((point.attributes or {})[names.CODE_FUNCTION_NAME])
                counts[function.rpartition(".")[2]] += int(point.value)
    return counts


@contextmanager
def instrumented() -> Iterator[None]:
    """The instrumentation, with a short grace and threshold."""
    ConnLeakInstrumentor().instrument(
        grace=GRACE, overdue_after=application.OVERDUE_AFTER, library_modules=LIBRARIES
    )
    try:
        yield
    finally:
        ConnLeakInstrumentor().uninstrument()


def main() -> int:
    """Run; the exit status is 1 where something is not as it must be."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long to run; 10 by default")
    minutes = parser.parse_args().minutes
    reports = Reports()
    reader = configure(reports)
    pools = f"two pools of {POOL_SIZE} and one of {ASYNCPG_POOL_SIZE}"
    print(f"{THREADS} threads, {TASKS} tasks, {pools}, {minutes:g} minutes")
    print(f"{platform.python_implementation()} {platform.python_version()}, {platform.machine()}", flush=True)
    with embedded_postgres() as server, fresh_schema(server) as dsn, instrumented():
        transactions.prepare(dsn)
        soak = Soak(Load(dsn, reports), reports, minutes)
        soak.run()
        soak.settle()
        wakes, left = idle_wakes(), objects()
        soak.print_reports()
        soak.print_transactions()
        print(f"\nobjects at the first fifth {dict(soak.first[1]) if soak.first else {}}")
        print(
            f"at the end {dict(soak.last[1])}, and after it {dict(left)}; {len(leaks())} reports remembered"
        )
        complaints = [*verdict(soak, left, wakes), *transactions_verdict(soak, reader, dsn)]
    for complaint in complaints:
        print(f"NOT SO: {complaint}")
    print("all as it must be" if not complaints else f"{len(complaints)} things are not as they must be")
    return int(bool(complaints))


if __name__ == "__main__":
    sys.exit(main())
