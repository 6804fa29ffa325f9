"""Detection does not depend on sampling, nor on an SDK at all: then the log lines are what is left."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from examples.otlp_receiver import OtlpReceiver
from tests.support.launcher import APPS, Finished, Launched, environment, exporting_to, launch

PROGRAM = APPS / "service" / "app.py"
REQUESTS = ["list_customers", "find_customer", "keep", "thread:keep_in_thread", "think"]
LEAKS = {
    ("find_customer", "confirmed"),
    ("keep", "possible"),
    ("keep_in_thread", "possible"),
    ("think", "possible"),
}
"""The functions that do not give back, and whether anybody still could."""

MODES: dict[str, dict[str, str]] = {
    "sampled": {},
    "unsampled": {"OTEL_TRACES_SAMPLER": "always_off"},
    "disabled": {"OTEL_SDK_DISABLED": "true"},
    "no provider": {"OTEL_PYTHON_CONFIGURATOR": "none"},
    "no SDK": {"OTEL_PYTHON_DISTRO": "none", "OTEL_PYTHON_CONFIGURATOR": "none"},
}


@contextmanager
def start(mode: str, dsn: str, receiver: OtlpReceiver) -> Iterator[Launched]:
    """Start the program with OpenTelemetry in one of the modes."""
    env = environment(DSN=dsn, OTEL_PYTHON_CONNLEAK_OVERDUE_AFTER="0.6")
    env |= exporting_to(receiver) | MODES[mode]
    if mode == "no SDK":
        launched = launch(APPS / "without_sdk.py", str(PROGRAM), *REQUESTS, env=env, instrument=False)
    else:
        launched = launch(PROGRAM, *REQUESTS, env=env)
    with launched as program:
        yield program


def let_it_leak(program: Launched) -> Finished:
    """Wait for all four reports, then for the end of the program."""
    for function, certainty in LEAKS:
        program.wait_for_output(rf"connection leak \({certainty}, .*CustomerRepository\.{function}\b")
    program.say("a word")
    return program.finish()


@pytest.mark.parametrize("mode", MODES)
def test_same_leaks(mode: str, dsn: str, receiver: OtlpReceiver) -> None:
    """The same functions are named in the log, each once, and the late release withdraws its claim."""
    with start(mode, dsn, receiver) as program:
        finished = let_it_leak(program)
    named = [
        re.search(r"\((\w+), [\w, ]+\) \[\w+\]: store\.repositories\.CustomerRepository\.(\w+)  ", line)
        for line in finished.leaks
    ]

    assert finished.returncode == 0
    assert sorted((match[2], match[1]) for match in named if match) == sorted(LEAKS)
    assert len(named) == len(LEAKS)
    assert len(re.findall(r"^recovered \[\w+\]: \S+\.think gave", finished.stderr, re.MULTILINE)) == 1
    assert "Traceback" not in finished.stderr


@pytest.mark.parametrize("mode", ["disabled", "no provider", "no SDK"])
def test_only_the_log_line_is_left(mode: str, dsn: str, receiver: OtlpReceiver) -> None:
    """Without an SDK nothing is sent."""
    with start(mode, dsn, receiver) as program:
        let_it_leak(program)

    assert [receiver.spans, receiver.logs, receiver.metrics] == [[], [], []]


def test_unsampled_trace_has_events_and_metrics(dsn: str, receiver: OtlpReceiver) -> None:
    """Sampling takes the spans, ours as well, but neither log events nor metrics."""
    with start("unsampled", dsn, receiver) as program:
        let_it_leak(program)
    leaks = [log for log in receiver.logs if log.event_name == "connleak.leak"]
    recovered = [log for log in receiver.logs if log.event_name == "connleak.recovered"]

    assert receiver.spans == []
    assert {str(log.attributes["code.function.name"]).rpartition(".")[2] for log in leaks} == {
        function for function, _ in LEAKS
    }
    assert len(leaks) == len(LEAKS)
    assert len(recovered) == 1
    assert all(len(log.trace_id) == 32 for log in leaks)
    assert len({log.trace_id for log in leaks}) == len(LEAKS), "each request has a trace of its own"
    assert sum(point.value for point in receiver.latest("connleak.leaks")) == len(LEAKS)
    assert sum(point.value for point in receiver.latest("connleak.leaks.open")) == len(LEAKS) - 1
