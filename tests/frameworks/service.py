"""Asks a service over HTTP, each time in a trace of the test's own, and reads what it reported."""

import secrets
import time
import urllib.request
from collections.abc import Collection
from typing import NamedTuple

from examples.otlp_receiver import OtlpReceiver
from tests.support.launcher import Launched
from tests.support.waiting import wait_until

LONGER_THAN_GRACE = 0.5
"""Seconds, well beyond the grace of the quick settings: what requests take that are correct but slow."""


class Answer(NamedTuple):
    """What came back, and the trace (32 hex digits) in which the request was made."""

    body: str
    trace: str


class Report(NamedTuple):
    """A leak event: the function that is blamed, and the trace that it happened in."""

    function: str
    trace: str


def trace_parent() -> tuple[str, str]:
    """A new trace id, and the W3C header that makes a service go on in it."""
    trace = secrets.token_hex(16)
    return trace, f"00-{trace}-{secrets.token_hex(8)}-01"


def ask(address: str, path: str) -> Answer:
    """Send a GET request and read all of the answer."""
    trace, parent = trace_parent()
    request = urllib.request.Request(address + path, headers={"traceparent": parent})
    with urllib.request.urlopen(request, timeout=30) as response:
        return Answer(response.read().decode(), trace)


def reports(receiver: OtlpReceiver) -> set[Report]:
    """All leak events so far; a second one about the same function in the same trace would be lost here."""
    events = [log for log in receiver.logs if log.event_name == "connleak.leak"]
    found = [Report(str(event.attributes["code.function.name"]), event.trace_id) for event in events]
    assert len(set(found)) == len(found)
    return set(found)


def holds(receiver: OtlpReceiver) -> set[str]:
    """The functions that hold spans name."""
    return {span.name.removeprefix("hold ") for span in receiver.spans if span.name.startswith("hold ")}


def expect(
    receiver: OtlpReceiver, expected: set[Report], launched: Launched, without_trace: Collection[str] = ()
) -> None:
    """Wait for exactly these reports; then let pass what a wrong one would take, and look again.

    Args:
        receiver: of the service's exporters.
        expected: the reports.
        launched: the service; what it has said is shown when the reports are others.
        without_trace: functions that are to be blamed, too, in traces that nobody knows beforehand.
    """

    def found() -> set[Report]:
        return {
            each._replace(trace="") if each.function in without_trace else each for each in reports(receiver)
        }

    expected = expected | {Report(function, "") for function in without_trace}
    try:
        wait_until(lambda: found() >= expected, "the reports")
    except AssertionError:
        raise AssertionError(f"{found()}, not {expected}\n{launched.stderr}") from None
    time.sleep(LONGER_THAN_GRACE)  # for something that must not happen
    assert found() == expected, launched.stderr
    assert "otel-connleak failed" not in launched.stderr, launched.stderr
