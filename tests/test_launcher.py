"""An unchanged program under the real launcher, and everything that leaves its process over OTLP."""

import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import pytest
from psycopg.conninfo import conninfo_to_dict

from examples.otlp_receiver import OtlpReceiver
from examples.otlp_records import LogRecord, MetricPoint, Span
from tests.support.launcher import APPS, Finished, environment, exporting_to, launch
from tests.support.postgres import fresh_schema

PROGRAM = APPS / "service" / "app.py"
REPOSITORIES = APPS / "service" / "store" / "repositories.py"
CLASS = "store.repositories.CustomerRepository"


def line_of(function: str, text: str) -> int:
    """The number of the first line after ``def function`` that contains a text."""
    lines = REPOSITORIES.read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if f"def {function}(" in line)
    return next(number + 1 for number, line in enumerate(lines) if number > start and text in line)


@dataclass(frozen=True)
class Story:
    """What the program said and what arrived: a correct request, one that drops, one that thinks."""

    finished: Finished
    spans: list[Span]
    events: list[LogRecord]
    points: dict[str, list[MetricPoint]]
    constant: dict[str, object]

    def span(self, name: str) -> Span:
        """The one span of a name."""
        (span,) = [span for span in self.spans if span.name == name]
        return span

    def event(self, name: str, function: str) -> LogRecord:
        """The one event of a name about a function."""
        (event,) = [
            event
            for event in self.events
            if event.event_name == name and event.attributes["code.function.name"] == f"{CLASS}.{function}"
        ]
        return event

    def pid(self, function: str) -> int:
        """The server process that the program itself saw in a function."""
        found = re.search(rf"{function} uses server pid (\d+)", self.finished.stdout)
        assert found is not None
        return int(found[1])

    def site(self, function: str, acquire: str = "getconn") -> dict[str, object]:
        """The attributes that say who and where; they are on every signal."""
        return self.constant | {
            "code.function.name": f"{CLASS}.{function}",
            "code.file.path": str(REPOSITORIES),
            "code.line.number": line_of(function, acquire),
            "connleak.resource": "connection",
            "thread.name": "MainThread",
        }


@pytest.fixture(scope="module")
def story(postgres: str) -> Iterator[Story]:
    """Run the program once for all tests of this module."""
    ask = ["list_customers", "find_customer", "think"]
    with OtlpReceiver() as receiver, fresh_schema(postgres) as dsn:
        env = environment(DSN=dsn, OTEL_PYTHON_CONNLEAK_OVERDUE_AFTER="0.5") | exporting_to(receiver)
        with launch(PROGRAM, *ask, env=env) as program:
            program.wait_for_output("^thinking$")
            program.wait_for_output(r"connection leak \(possible, overdue\)")
            program.say("a word")
            finished = program.finish()
        host = str(conninfo_to_dict(postgres)["host"])
        names = {point.name for point in receiver.metrics}
        yield Story(
            finished,
            receiver.spans,
            receiver.logs,
            {name: receiver.latest(name) for name in names},
            {
                "db.system.name": "postgresql",
                "db.namespace": "postgres",
                "server.address": host,
                "db.client.connection.pool.name": "orders",
            },
        )


def test_the_program_runs_as_if_alone(story: Story) -> None:
    """The program ends well and says what it says without us."""
    assert story.finished.returncode == 0
    assert story.finished.stdout.splitlines()[0].startswith("find_customer uses server pid")
    assert story.finished.stdout.splitlines()[1] == "404 nobody"
    assert story.finished.stdout.splitlines()[-1] == "done"
    assert "Traceback" not in story.finished.stderr


def test_correct_hold_span(story: Story) -> None:
    """A correct hold is one span with the function, place, database, pool, thread, pid and times."""
    hold = story.span("hold CustomerRepository.list_customers")
    request = story.span("GET /list_customers")
    attributes = dict(hold.attributes)
    pid, use, idle, statements = (
        attributes.pop(f"connleak.{name}") for name in ("server.pid", "use_time", "idle_time", "statements")
    )

    assert attributes == story.site("list_customers", "pool.connection()") | {
        "connleak.transaction.outcome": "committed"
    }
    assert (hold.kind, hold.status, hold.scope, hold.links) == ("INTERNAL", "UNSET", "otel_connleak", ())
    assert (hold.trace_id, hold.parent_span_id) == (request.trace_id, request.span_id)
    assert hold.resource["service.name"] == "store"
    assert isinstance(pid, int)
    assert isinstance(use, float)
    assert isinstance(idle, float)
    assert 0 <= idle < use == pytest.approx(hold.seconds, abs=0.05)
    assert isinstance(statements, int)
    assert statements >= 1
    assert request.start_ns <= hold.start_ns <= hold.end_ns <= request.end_ns


def queries_of(story: Story) -> dict[str, Span]:
    """The spans of the driver's own instrumentation, by the request they were made for."""
    requests = {span.trace_id: span.name.removeprefix("GET /") for span in story.spans if "GET" in span.name}
    return {requests[span.trace_id]: span for span in story.spans if span.scope.endswith(".psycopg")}


def test_the_drivers_own_instrumentation_goes_on(story: Story) -> None:
    """Each query has the span that OpenTelemetry's instrumentation of the driver makes, in its request."""
    assert {request: span.name for request, span in queries_of(story).items()} == {
        "find_customer": "SELECT",
        "list_customers": "SELECT",
        "think": "SELECT",
    }


def test_query_spans_are_inside_the_hold(story: Story) -> None:
    """A query span is a child of its transaction, and that of the hold of its connection."""
    for request, query in queries_of(story).items():
        transaction = story.span(f"transaction CustomerRepository.{request}")
        assert query.parent_span_id == transaction.span_id
        assert transaction.parent_span_id == story.span(f"hold CustomerRepository.{request}").span_id


def test_dropped_leak_spans(story: Story) -> None:
    """A dropped connection ends its hold span with an error, and has a leak span beside it."""
    hold = story.span("hold CustomerRepository.find_customer")
    leak = story.span("leak CustomerRepository.find_customer")
    request = story.span("GET /find_customer")
    attributes = dict(leak.attributes)
    leak_id, fingerprint = str(attributes.pop("connleak.id")), str(attributes.pop("connleak.fingerprint"))
    stack = str(attributes.pop("code.stacktrace"))
    use, idle = attributes.pop("connleak.use_time"), attributes.pop("connleak.idle_time")
    # That the function has exited, and then the request, is seen too if it happens before the report.
    first, *further = cast(tuple[str, ...], attributes.pop("connleak.evidence"))

    assert first == "dropped"
    assert set(further) <= {"function_exited", "trace_ended"}
    assert attributes == story.site("find_customer") | {
        "connleak.server.pid": story.pid("find_customer"),
        "connleak.certainty": "confirmed",
        "connleak.transaction.outcome": "open",
        "db.query.summary": "SELECT … FROM customers",
    }
    assert re.fullmatch(rf"{fingerprint}-[0-9a-f]{{8}}", leak_id)
    frames = stack.splitlines()
    assert frames[0].startswith(f'File "{REPOSITORIES}", line {line_of("find_customer", "getconn")}, in ')
    assert frames[0].endswith("CustomerRepository.find_customer")
    assert frames[1].startswith(f'File "{PROGRAM}", line ')
    assert isinstance(use, float)
    assert isinstance(idle, float)
    assert 0 <= idle <= use
    assert (leak.kind, leak.status, leak.scope) == ("INTERNAL", "ERROR", "otel_connleak")
    assert (leak.trace_id, leak.parent_span_id) == (request.trace_id, request.span_id)
    assert [(link.trace_id, link.span_id) for link in leak.links] == [(hold.trace_id, hold.span_id)]
    assert leak.span_id != hold.span_id
    assert leak.start_ns == pytest.approx(hold.start_ns, abs=5_000_000)
    assert hold.status == "ERROR"
    assert hold.status_message.startswith("never released")
    assert "connleak.leak.id" not in hold.attributes, "it has not recovered"


def test_leak_event(story: Story) -> None:
    """The log event of a leak has the attributes of its leak span, and the trace and span of the hold."""
    event = story.event("connleak.leak", "find_customer")
    leak = story.span("leak CustomerRepository.find_customer")
    hold = story.span("hold CustomerRepository.find_customer")

    assert dict(event.attributes) == dict(leak.attributes)
    assert (event.trace_id, event.span_id) == (hold.trace_id, hold.span_id)
    assert (event.scope, event.severity) == ("otel_connleak", "WARN")
    assert event.resource["service.name"] == "store"
    assert f"{CLASS}.find_customer" in str(event.body)


def test_overdue_hold_recovers(story: Story) -> None:
    """A hold that is reported as overdue and then released says so, everywhere with the same id."""
    leak = story.span("leak CustomerRepository.think")
    hold = story.span("hold CustomerRepository.think")
    reported = story.event("connleak.leak", "think")
    recovered = story.event("connleak.recovered", "think")
    leak_id = leak.attributes["connleak.id"]

    assert leak.attributes["connleak.evidence"] == ("overdue",)
    assert leak.attributes["connleak.certainty"] == "possible"
    assert leak.attributes["connleak.server.pid"] == story.pid("think")
    assert leak.seconds >= 0.5
    assert leak.parent_span_id == hold.parent_span_id == story.span("GET /think").span_id
    assert [link.span_id for link in leak.links] == [hold.span_id]
    assert hold.status == "UNSET"
    assert hold.end_ns >= leak.end_ns
    assert (
        leak_id
        == hold.attributes["connleak.leak.id"]
        == reported.attributes["connleak.id"]
        == recovered.attributes["connleak.id"]
    )
    assert recovered.attributes.items() >= story.site("think").items()
    assert recovered.trace_id == hold.trace_id
    assert recovered.time_ns > reported.time_ns


def test_nothing_else_is_reported(story: Story) -> None:
    """Two leaks, one recovery, and no report about the correct function."""
    assert sorted(span.name for span in story.spans if span.scope == "otel_connleak") == [
        "hold CustomerRepository.find_customer",
        "hold CustomerRepository.list_customers",
        "hold CustomerRepository.think",
        "leak CustomerRepository.find_customer",
        "leak CustomerRepository.think",
        "transaction CustomerRepository.find_customer",
        "transaction CustomerRepository.list_customers",
        "transaction CustomerRepository.think",
    ]
    assert sorted(event.event_name for event in story.events) == [
        "connleak.leak",
        "connleak.leak",
        "connleak.recovered",
    ]


def test_metrics(story: Story) -> None:
    """Leaks are counted by kind; the number of open ones falls with the recovery."""
    leaks = {
        str(point.attributes["code.function.name"]): (dict(point.attributes), point.value, point.monotonic)
        for point in story.points["connleak.leaks"]
    }
    shared = {"db.client.connection.pool.name": "orders", "connleak.resource": "connection"}

    assert leaks == {
        f"{CLASS}.find_customer": (
            shared
            | {
                "code.function.name": f"{CLASS}.find_customer",
                "connleak.evidence": "dropped",
                "connleak.certainty": "confirmed",
            },
            1,
            True,
        ),
        f"{CLASS}.think": (
            shared
            | {
                "code.function.name": f"{CLASS}.think",
                "connleak.evidence": "overdue",
                "connleak.certainty": "possible",
            },
            1,
            True,
        ),
    }
    assert {point.scope for point in story.points["connleak.leaks"]} == {"otel_connleak"}
    still_open = story.points["connleak.leaks.open"]
    assert sum(point.value for point in still_open) == 1
    assert all(not point.monotonic for point in still_open)


def test_log_lines(story: Story) -> None:
    """Without any logging set up the reports are readable lines on standard error."""
    fingerprint = story.span("leak CustomerRepository.find_customer").attributes["connleak.fingerprint"]
    lines = story.finished.stderr.splitlines()
    (first,) = [number for number, line in enumerate(lines) if "confirmed, dropped" in line]
    report = "\n".join(lines[first : first + 8])

    assert lines[first].startswith("connection leak (confirmed, dropped")
    assert f") [{fingerprint!s}]: {CLASS}.find_customer  " in lines[first]
    assert f"repositories.py:{line_of('find_customer', 'getconn')}" in lines[first]
    assert f"server pid {story.pid('find_customer')}" in report
    assert 'pool "orders"' in report
    assert "nobody" not in report
    assert "SELECT" in report
    assert "hint: " in report
    assert story.span("GET /find_customer").trace_id[:8] in report
    (recovered,) = [line for line in lines if line.startswith("recovered [")]
    assert f"{CLASS}.think gave the connection back after " in recovered


def test_without_a_collector(dsn: str) -> None:
    """A collector that does not answer costs neither the program nor the report on standard error."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        nowhere = f"http://127.0.0.1:{silent.getsockname()[1]}"
    env = environment(
        DSN=dsn,
        OTEL_TRACES_EXPORTER="otlp",
        OTEL_LOGS_EXPORTER="otlp",
        OTEL_METRICS_EXPORTER="otlp",
        OTEL_EXPORTER_OTLP_ENDPOINT=nowhere,
        OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        OTEL_EXPORTER_OTLP_TIMEOUT="1",
    )
    with launch(PROGRAM, "find_customer", env=env) as program:
        finished = program.finish()

    assert finished.returncode == 0
    assert len(finished.leaks) == 1
