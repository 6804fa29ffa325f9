"""Every setting, by environment variable and by keyword argument, and what a bad value does."""

import json
import logging
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from examples.otlp_receiver import OtlpReceiver
from otel_connleak import ConnLeakInstrumentor
from tests.support.launcher import (
    APPS,
    DISABLED,
    FRAMEWORKS,
    Finished,
    Launched,
    environment,
    exporting_to,
    launch,
)
from tests.support.telemetry import Telemetry
from tests.support.waiting import wait_until

PROGRAM = APPS / "service" / "app.py"
REPOSITORY = "store.repositories.CustomerRepository"

BAD = {
    "overdue_after": "soon",
    "grace": "-1",
    "repository": "store repositories",
    "library_modules": "'store'",
    "long_lived": "(listen)",
    "ignore": "find customer",
    "spans": "some",
    "slow_after": "nan",
    "statements": "yes",
    "evidence": "overdue,hearsay",
    "socket": "perhaps",
    "idle_after": "never",
}
"""A value that each setting must refuse."""

type Start = Callable[..., Launched]
"""Starts the program: its requests are positional, the settings are keyword arguments."""


@pytest.fixture(params=["environment", "argument"])
def start(request: pytest.FixtureRequest, dsn: str, receiver: OtlpReceiver) -> Start:
    """Start the program with settings, once by environment variables and once by keyword arguments."""

    def by_environment(*requests: str, **settings: Any) -> Launched:
        variables = {f"OTEL_PYTHON_CONNLEAK_{name.upper()}": str(value) for name, value in settings.items()}
        return launch(PROGRAM, *requests, env=env | variables)

    def by_argument(*requests: str, **settings: Any) -> Launched:
        by_hand = env | {DISABLED: f"{FRAMEWORKS},connleak"}
        program = APPS / "with_arguments.py"
        return launch(program, json.dumps(settings), str(PROGRAM), *requests, env=by_hand)

    env = environment(DSN=dsn) | exporting_to(receiver)
    return by_environment if request.param == "environment" else by_argument


def hold_spans(receiver: OtlpReceiver) -> list[str]:
    """The names of the hold spans that arrived."""
    return sorted(span.name for span in receiver.spans if span.name.startswith("hold "))


def think(program: Launched, timeout: float = 15.0) -> Finished:
    """Let a program with the request ``think`` go on as soon as that hold has been reported."""
    program.wait_for_output(rf"connection leak \(possible, overdue\).*: {REPOSITORY}\.think", timeout)
    program.say("a word")
    return program.finish()


def test_overdue_after(start: Start) -> None:
    """An idle hold is reported after the time set, not after the default of 30 s."""
    with start("think", overdue_after=0.3) as program:
        finished = think(program)

    assert len(finished.leaks) == 1


def test_overdue_after_with_unit(start: Start) -> None:
    """A duration may have a unit."""
    with start("think", overdue_after="300ms") as program:
        think(program)


def test_grace(start: Start, receiver: OtlpReceiver) -> None:
    """What a function left behind is reported when the time set has passed, and not before."""
    with start("keep", "pause", grace=0.8) as program:
        program.wait_for_output(r"connection leak \(possible, .*CustomerRepository\.keep")
        program.say()
        program.finish()
    (leak,) = [span for span in receiver.spans if span.name.startswith("leak ")]

    assert 0.8 <= leak.seconds < 5


def test_owner_without_settings(start: Start, receiver: OtlpReceiver) -> None:
    """A helper that acquires and releases is its own owner unless a setting says otherwise."""
    with start("count_customers") as program:
        program.finish()

    assert hold_spans(receiver) == ["hold fetch_all"]


@pytest.mark.parametrize("pattern", ["store.repositories", "store.repo*"])
def test_repository(start: Start, receiver: OtlpReceiver, pattern: str) -> None:
    """The nearest function of the repository layer owns what a helper below it acquires."""
    with start("count_customers", repository=pattern) as program:
        program.finish()

    assert hold_spans(receiver) == ["hold CustomerRepository.count_customers"]


def test_library_modules(start: Start, receiver: OtlpReceiver) -> None:
    """A module named as a library is never the owner."""
    with start("count_customers", library_modules="other,store.database") as program:
        program.finish()

    assert hold_spans(receiver) == ["hold CustomerRepository.count_customers"]


def test_long_lived(start: Start) -> None:
    """A function that holds for long by design is not reported, while one that it calls is."""
    with start("listen", overdue_after=0.3, long_lived=f"{REPOSITORY}.listen") as program:
        finished = think(program)

    assert len(finished.leaks) == 1


def test_not_long_lived(start: Start) -> None:
    """Without the setting both are reported: the test above is not blind."""
    with start("listen", overdue_after=0.3) as program:
        finished = think(program)

    assert len(finished.leaks) == 2


def test_ignore(start: Start) -> None:
    """A function on the list is never reported, others are."""
    with start("find_customer", "keep", "pause", ignore="*.find_customer") as program:
        program.wait_for_output(r"connection leak \(.*CustomerRepository\.keep")
        program.say()
        finished = program.finish()

    assert len(finished.leaks) == 1


def test_spans_none(start: Start, receiver: OtlpReceiver) -> None:
    """Without hold spans a leak is still reported, as a span too."""
    with start("list_customers", "find_customer", spans="none") as program:
        program.finish()

    assert hold_spans(receiver) == []
    assert [span.name for span in receiver.spans if span.name.startswith("leak ")] == [
        "leak CustomerRepository.find_customer"
    ]


def test_spans_slow(start: Start, receiver: OtlpReceiver) -> None:
    """With ``slow`` only holds that took longer than the time set have a span."""
    with start("list_customers", "sleep", spans="slow", slow_after=0.3) as program:
        program.finish()

    assert hold_spans(receiver) == ["hold CustomerRepository.sleep"]


@pytest.mark.parametrize(
    ("statements", "shown", "hidden"),
    [
        ("off", "hint: ", "SELECT|nobody"),
        ("summary", "SELECT … FROM customers", "nobody"),
        ("full", r"SELECT \* FROM customers WHERE name = 'nobody'", "(?!)"),
    ],
)
def test_statements(start: Start, statements: str, shown: str, hidden: str) -> None:
    """A report shows as much of the last statement as was asked for."""
    with start("find_customer", statements=statements) as program:
        report = program.finish().stderr.partition("connection leak")[2]

    assert re.search(shown, report)
    assert not re.search(hidden, report)


def test_evidence(start: Start) -> None:
    """Only the kinds of evidence that were asked for are looked for."""
    with start("find_customer", "think", evidence="overdue", overdue_after=0.3) as program:
        finished = think(program)

    assert "dropped" not in finished.stderr


def test_idle_after(start: Start) -> None:
    """What was released and had sat idle for longer was held unnecessarily; a slow query was not."""
    with start("think", "sleep", idle_after=0.2) as program:
        program.wait_for_output("thinking")
        since = time.monotonic()
        wait_until(lambda: time.monotonic() - since > 0.3, "a connection that has sat idle")
        program.say("a word")
        finished = program.finish()

    assert re.findall(r"unnecessarily \[\w+\]: (\S+)", finished.stderr) == [f"{REPOSITORY}.think"]
    assert finished.leaks == []


def test_bad_values_in_the_environment(dsn: str, receiver: OtlpReceiver) -> None:
    """Each bad variable gives one message that names it and what it accepts, and the defaults are used."""
    bad = {f"OTEL_PYTHON_CONNLEAK_{name.upper()}": value for name, value in BAD.items()}
    env = environment(DSN=dsn, **bad) | exporting_to(receiver)
    with launch(PROGRAM, "list_customers", "count_customers", "find_customer", env=env) as program:
        finished = program.finish()
    lines = finished.stderr.splitlines()

    assert finished.returncode == 0
    assert finished.stdout.splitlines()[-1] == "done"
    for name, value in bad.items():
        (message,) = [line for line in lines if name in line]
        assert value in message
        assert "it takes " in message
        assert "default" in message
    assert hold_spans(receiver) == [
        "hold CustomerRepository.find_customer",
        "hold CustomerRepository.list_customers",
        "hold fetch_all",
    ]
    assert "confirmed, dropped" in finished.leaks[0]
    assert "SELECT" in finished.stderr
    assert "nobody" not in finished.stderr


@pytest.mark.parametrize("name", BAD)
def test_bad_argument(name: str, telemetry: Telemetry, caplog: pytest.LogCaptureFixture) -> None:
    """A bad keyword argument is one ERROR record that names it, and the instrumentation is on."""
    with caplog.at_level(logging.INFO), telemetry.instrumented(**{name: BAD[name]}) as instrumentor:
        assert instrumentor.is_instrumented_by_opentelemetry

    (record,) = [record for record in caplog.records if record.name == "otel_connleak"]
    assert record.levelno == logging.ERROR
    assert re.search(rf"\b{name}\b", record.getMessage())
    assert BAD[name] in record.getMessage()


def test_bad_variable_is_an_error(
    telemetry: Telemetry, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad environment variable is one ERROR record too."""
    monkeypatch.setenv("OTEL_PYTHON_CONNLEAK_GRACE", "a while")
    with caplog.at_level(logging.INFO), telemetry.instrumented():
        pass

    (record,) = [record for record in caplog.records if record.name == "otel_connleak"]
    assert record.levelno == logging.ERROR
    assert "OTEL_PYTHON_CONNLEAK_GRACE" in record.getMessage()
    assert "number of seconds" in record.getMessage()


def test_argument_goes_before_variable(
    telemetry: Telemetry, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where an argument is given its variable is not even read."""
    monkeypatch.setenv("OTEL_PYTHON_CONNLEAK_GRACE", "a while")
    with caplog.at_level(logging.INFO), telemetry.instrumented(grace=1):
        assert ConnLeakInstrumentor().is_instrumented_by_opentelemetry

    assert not [record for record in caplog.records if record.name == "otel_connleak"]
