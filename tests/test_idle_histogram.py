"""``connleak.hold.idle_time``: each hold that has ended is in the next collection; no release pays for it."""

import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from opentelemetry.metrics import Meter, NoOpMeterProvider
from opentelemetry.metrics._internal import _ProxyMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    InMemoryMetricReader,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from psycopg_pool import ConnectionPool

from otel_connleak import guard
from otel_connleak.connection import Kind
from otel_connleak.listeners import Listeners
from otel_connleak.otel import histograms
from otel_connleak.otel.histograms import Full, Histograms
from otel_connleak.totals import OTHER_FUNCTIONS, FunctionTotals
from tests.leaking import drop, lose, release
from tests.support import toy
from tests.support.core import Core
from tests.support.telemetry import Telemetry
from tests.support.toy import ToyPool
from tests.support.waiting import wait_until

METRIC = "connleak.hold.idle_time"


def points_of(data: MetricsData | None) -> list[Any]:
    """The points of the histogram in one collection; nothing else of ours must be in it."""
    found = [
        metric
        for resource in (data.resource_metrics if data is not None else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
    ]
    assert {metric.name for metric in found} <= {METRIC}
    return [point for metric in found for point in metric.data.data_points]


class Case:
    """A core whose holds are recorded into one SDK."""

    def __init__(self, meter: Meter, **settings: Any) -> None:
        self.core = Core(**settings)
        self.messages: list[object] = []
        self.histograms = Histograms(meter, self.messages.append)
        self.core.registry.listeners = Listeners(
            claimed=[self.core.leaks.released], ended=[self.histograms.ended]
        )
        self.histograms.start()
        self.pool = self.core.pool

    def hold(self, idle: float = 1.0, busy: float = 0.0) -> None:
        """Hold something, for so many seconds in and outside of the driver."""
        connection = self.pool.getconn()
        hold = self.pool.hold_of(connection)
        self.core.clock.now += idle + busy
        hold.busy += busy
        self.pool.putconn(connection)


@pytest.fixture
def reader() -> InMemoryMetricReader:
    """Collects when it is asked."""
    return InMemoryMetricReader()


@pytest.fixture
def meter(reader: InMemoryMetricReader) -> Iterator[Meter]:
    """A meter of a real SDK."""
    provider = MeterProvider([reader], shutdown_on_exit=False)
    yield provider.get_meter("otel_connleak")
    provider.shutdown()


@pytest.fixture
def case(meter: Meter) -> Iterator[Case]:
    """A core whose holds are recorded."""
    case = Case(meter)
    yield case
    case.histograms.stop()
    toy.forget()


class TestRealPool:
    """What is measured of PostgreSQL's connections."""

    def test_point(self, dsn: str, telemetry: Telemetry) -> None:
        """A hold is in the first collection after its release, under the function that held it."""
        with telemetry.instrumented(), ConnectionPool(dsn, min_size=1, name="orders") as pool:
            with pool.connection() as connection:
                connection.autocommit = True
                connection.execute("SELECT pg_sleep(0.3)")
            (point,) = telemetry.points(METRIC)

        assert dict(point.attributes) == {
            "code.function.name": "tests.test_idle_histogram.TestRealPool.test_point",
            "db.client.connection.pool.name": "orders",
            "connleak.resource": "connection",
        }
        assert point.count == 1
        assert 0 <= point.sum < 0.2  # the query was no idle time

    def test_transaction(self, dsn: str, telemetry: Telemetry) -> None:
        """The transaction is a hold of its own, and a direct connection has no pool."""
        with telemetry.instrumented(), psycopg.connect(dsn) as connection:
            connection.execute("SELECT 1")
            connection.close()
        points = {dict(point.attributes)["connleak.resource"]: point for point in telemetry.points(METRIC)}

        assert {kind: point.count for kind, point in points.items()} == {"connection": 1, "transaction": 1}
        assert "db.client.connection.pool.name" not in points["connection"].attributes

    def test_instrumented_again(self, dsn: str, telemetry: Telemetry) -> None:
        """With the same provider the second instrumentation counts on where the first has stopped."""
        for _ in range(2):
            with telemetry.instrumented():
                psycopg.connect(dsn).close()

        assert [point.count for point in telemetry.points(METRIC)] == [2]

        with telemetry.instrumented():
            psycopg.connect(dsn).close()
            assert [point.count for point in telemetry.points(METRIC)] == [3]

    def test_last_export(self, dsn: str) -> None:
        """What ended just before the provider shuts down is in the last export."""
        exported: list[Any] = []

        class Exporter(MetricExporter):
            def export(self, metrics_data: MetricsData, *_: Any, **__: Any) -> MetricExportResult:
                exported.extend(points_of(metrics_data))
                return MetricExportResult.SUCCESS

            def force_flush(self, timeout_millis: float = 10_000) -> bool:
                return True

            def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:
                pass

        telemetry = Telemetry()
        telemetry.meter_provider = MeterProvider(
            [PeriodicExportingMetricReader(Exporter(), export_interval_millis=600_000)],
            shutdown_on_exit=False,
        )
        with telemetry.instrumented():
            psycopg.connect(dsn).close()
            telemetry.shutdown()

        assert [point.count for point in exported] == [1]


class TestRecorded:
    """Which holds are recorded, and with what."""

    def test_idle_time(self, case: Case, reader: InMemoryMetricReader) -> None:
        """The time held without that in the driver; two buckets more than the conventions have."""
        case.hold(idle=2.0, busy=30.0)
        case.hold(idle=0.004)
        (point,) = points_of(reader.get_metrics_data())

        assert (point.count, point.min, point.max) == (2, pytest.approx(0.004), pytest.approx(2.0))
        assert point.explicit_bounds == (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60, 300)
        assert dict(zip(point.explicit_bounds, point.bucket_counts, strict=False)) == {
            bound: int(bound in (0.005, 5)) for bound in point.explicit_bounds
        }

    def test_unit(self, case: Case, reader: InMemoryMetricReader) -> None:
        """Seconds, as the semantic conventions have it for the use time."""
        case.hold()
        data = reader.get_metrics_data()
        assert data is not None
        (metric,) = data.resource_metrics[0].scope_metrics[0].metrics

        assert metric.unit == "s"

    def test_never_negative(self, case: Case, reader: InMemoryMetricReader) -> None:
        """A negative time, which a clock may make, would be refused by the SDK."""
        case.hold(idle=-1.0, busy=3.0)
        (point,) = points_of(reader.get_metrics_data())

        assert point.sum == 0.0

    def test_lost(self, case: Case, reader: InMemoryMetricReader) -> None:
        """What was dropped has ended as well."""
        drop(case.pool)
        gc.collect()
        case.core.after(1.0)
        (point,) = points_of(reader.get_metrics_data())

        assert (point.count, dict(point.attributes)["code.function.name"]) == (1, "tests.leaking.drop")

    def test_open(self, case: Case, reader: InMemoryMetricReader) -> None:
        """What is still held is not in it yet."""
        hold = lose(case.pool)
        assert points_of(reader.get_metrics_data()) == []

        release(case.pool, hold)
        assert [point.count for point in points_of(reader.get_metrics_data())] == [1]

    def test_two_readers(self) -> None:
        """Each reader gets all of them, although the first collection has emptied the buffer."""
        readers = [InMemoryMetricReader(), InMemoryMetricReader()]
        provider = MeterProvider(readers, shutdown_on_exit=False)
        case = Case(provider.get_meter("otel_connleak"))
        for _ in range(3):
            case.hold()

        assert [[p.count for p in points_of(reader.get_metrics_data())] for reader in readers] == [[3], [3]]
        case.histograms.stop()
        provider.shutdown()

    def test_delta(self) -> None:
        """With delta temporality each collection has what has ended since the one before."""
        from opentelemetry.sdk.metrics import Histogram

        reader = InMemoryMetricReader({Histogram: AggregationTemporality.DELTA})
        provider = MeterProvider([reader], shutdown_on_exit=False)
        case = Case(provider.get_meter("otel_connleak"))
        counts = []
        for holds in (2, 0, 3):
            for _ in range(holds):
                case.hold()
            counts.append([point.count for point in points_of(reader.get_metrics_data())])

        assert counts == [[2], [], [3]]
        case.histograms.stop()
        provider.shutdown()

    def test_many_functions(self, case: Case, reader: InMemoryMetricReader) -> None:
        """A thousand functions have their own; the rest is one, and nothing is lost."""
        hold = lose(case.pool)
        for number in range(1_200):
            for pool in ("orders", None):
                hold.totals = FunctionTotals(f"shop.function_{number}", pool, Kind.CONNECTION)
                hold.released = hold.acquired + 1.0
                case.histograms.ended(hold)
        points = points_of(reader.get_metrics_data())
        functions = {dict(point.attributes)["code.function.name"] for point in points}

        assert len(functions) == 1_001
        assert sum(point.count for point in points) == 2_400
        assert [point.count for point in points if OTHER_FUNCTIONS in point.attributes.values()] == [200, 200]


class TestBuffer:
    """What lies between a release and a collection."""

    def size(self, case: Case) -> int:
        """Holds that wait to be recorded."""
        return len(case.histograms._buffer)

    def test_nobody_collects(
        self, case: Case, reader: InMemoryMetricReader, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """When it is full the watchdog is asked once, and empties it; nothing is lost."""
        monkeypatch.setattr(histograms, "CAPACITY", 10)
        for _ in range(25):
            case.hold()
        (message,) = case.messages
        assert isinstance(message, Full)
        assert self.size(case) == 25

        case.histograms.full(message)
        assert self.size(case) == 0
        for _ in range(11):
            case.hold()

        assert len(case.messages) == 2
        assert [point.count for point in points_of(reader.get_metrics_data())] == [36]

    def test_watchdog(self, dsn: str, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> None:
        """The running instrumentation does so with a real pool."""
        monkeypatch.setattr(histograms, "CAPACITY", 10)
        with telemetry.instrumented(), ConnectionPool(dsn, min_size=1) as pool:
            for _ in range(11):
                pool.putconn(pool.getconn())
            running = histograms._running
            assert running is not None
            wait_until(lambda: not running._buffer, "an empty buffer")

            assert [point.count for point in telemetry.points(METRIC)] == [11]

    def test_bounded(self, case: Case) -> None:
        """If even the watchdog is stuck, memory is not what is lost."""
        hold = lose(case.pool)
        hold.released = hold.acquired
        for _ in range(histograms.MOST + 5):
            case.histograms.ended(hold)

        assert self.size(case) == histograms.MOST
        assert len(case.messages) == 1

    def test_keeps_no_hold(self, case: Case) -> None:
        """What waits are figures: neither a hold nor a connection is kept alive."""
        connection = case.pool.getconn()
        hold = weakref.ref(case.pool.hold_of(connection))
        case.pool.putconn(connection)

        assert self.size(case) == 1
        assert hold() is None

    def test_no_sdk(self) -> None:
        """Where nobody has set up an SDK nothing is kept; when somebody does, it begins."""
        provider = _ProxyMeterProvider()
        case = Case(provider.get_meter("otel_connleak"))
        case.hold()
        assert self.size(case) == 0

        reader = InMemoryMetricReader()
        real = MeterProvider([reader], shutdown_on_exit=False)
        provider.on_set_meter_provider(real)
        case.hold()

        assert [point.count for point in points_of(reader.get_metrics_data())] == [1]
        case.histograms.stop()
        real.shutdown()

    def test_disabled_sdk(self) -> None:
        """An SDK that was switched off will never collect."""
        case = Case(NoOpMeterProvider().get_meter("otel_connleak"))
        case.hold()

        assert self.size(case) == 0
        case.histograms.stop()

    def test_stopped(self, case: Case, reader: InMemoryMetricReader) -> None:
        """With the instrumentation the recording ends; what had ended before is told."""
        case.hold()
        case.histograms.stop()
        case.hold()

        assert self.size(case) == 0
        assert [point.count for point in points_of(reader.get_metrics_data())] == [1]

    def test_fork(self, case: Case, reader: InMemoryMetricReader) -> None:
        """A child has none of its parent's; its own are recorded."""
        case.hold()
        case.histograms.clear()
        assert points_of(reader.get_metrics_data()) == []

        case.hold()
        assert [point.count for point in points_of(reader.get_metrics_data())] == [1]

    def test_fork_while_recording(self) -> None:
        """A fork waits until what is being recorded has been: no child inherits a lock of the SDK locked."""
        root = Path(__file__).parent.parent
        done = subprocess.run(
            [sys.executable, root / "tests" / "apps" / "recording.py"],
            env=os.environ | {"PYTHONPATH": str(root)},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=300,
        )

        assert done.stdout == "40 of 40\n"

    def test_failure(self, case: Case, reader: InMemoryMetricReader, monkeypatch: pytest.MonkeyPatch) -> None:
        """If recording fails, the collection goes on, and it is noted."""
        case.hold()
        monkeypatch.setattr(case.histograms, "record", None)
        guard.forget()

        assert points_of(reader.get_metrics_data()) == []
        assert guard.failures() == {"histograms": 1}

    def test_several_threads(self, case: Case, reader: InMemoryMetricReader) -> None:
        """Releases in several threads while others collect: each hold is counted once."""
        pools = [ToyPool(case.core.registry, name=f"pool-{number}") for number in range(4)]
        done = threading.Event()

        def use(pool: ToyPool) -> None:
            for _ in range(500):
                pool.putconn(pool.getconn())

        def collect() -> None:
            while not done.is_set():
                case.histograms.record()

        users = [threading.Thread(target=use, args=[pool]) for pool in pools]
        collectors = [threading.Thread(target=collect) for _ in range(2)]
        for thread in users + collectors:
            thread.start()
        for thread in users:
            thread.join()
        done.set()
        for thread in collectors:
            thread.join()
        points = points_of(reader.get_metrics_data())

        assert sorted(point.count for point in points) == [500] * 4
