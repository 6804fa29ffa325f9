"""A shop on Django under gunicorn and the real launcher: its leaks are named, its correct views are not."""

import itertools
import json
import os
import re
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from examples.otlp_receiver import OtlpReceiver
from examples.otlp_records import LogRecord
from tests.support.launcher import APPS, LAUNCHER, WITH_FRAMEWORKS, Launched, environment, exporting_to
from tests.support.waiting import wait_until

OVERDUE = 0.6
REPOSITORY = "django_shop.repositories.CustomerRepository"
PERSISTENT: dict[str, Any] = {"CONN_MAX_AGE": 600}
POOL: dict[str, Any] = {"OPTIONS": {"pool": {"min_size": 1, "max_size": 4}}}


class Shop:
    """The running shop: its two workers answer a request each."""

    def __init__(self, server: Launched, address: str) -> None:
        self.server = server
        self._address = address
        self._numbers = itertools.count()

    def ask(self, view: str, **arguments: object) -> list[Any]:
        """Send two requests at once; each worker takes one of them. Gives the answers."""
        query = "".join(f"&{name}={value}" for name, value in arguments.items())
        url = f"{self._address}/{view}?meeting={next(self._numbers)}{query}"

        def ask(_: int) -> Any:
            with urllib.request.urlopen(url, timeout=30) as response:
                body = response.read().decode()
                if "X-Trace" in response.headers:
                    return {"trace": response.headers["X-Trace"], "lines": body.splitlines()}
                return json.loads(body)

        with ThreadPoolExecutor(2) as threads:
            return list(threads.map(ask, range(2)))

    def wait_for_leaks(self, function: str, number: int = 2) -> None:
        """Wait until so many leaks of a function have been logged."""
        pattern = re.compile(rf" leak \(.*\]: {re.escape(function)}  ")
        wait_until(lambda: len(pattern.findall(self.server.stderr)) == number, f"leaks of {function}")


@contextmanager
def gunicorn(*arguments: str, env: dict[str, str]) -> Iterator[Shop]:
    """Start gunicorn with two workers under the launcher."""
    command = [str(LAUNCHER), sys.executable, "-m", "gunicorn", "--workers=2", "--bind=127.0.0.1:0"]
    command += [f"--chdir={APPS}", *arguments, "django_shop.wsgi:application"]
    with Launched(command, env) as server:
        address = server.wait_for_output(r"Listening at: (http://\S+)")[1]
        wait_until(lambda: len(re.findall(r"Booting worker with pid", server.stderr)) == 2, "two workers")
        yield Shop(server, address)


def traces(answers: list[Any]) -> set[str]:
    """The traces in which requests were answered."""
    return {answer["trace"] for answer in answers}


def events(receiver: OtlpReceiver, name: str) -> list[LogRecord]:
    """The log events of a name."""
    return [log for log in receiver.logs if log.event_name == name]


def about(events: list[LogRecord], function: str) -> list[LogRecord]:
    """Those of a function."""
    return [event for event in events if event.attributes["code.function.name"] == function]


def evidence(leak: LogRecord) -> set[str]:
    """What was observed."""
    return set(cast(tuple[str, ...], leak.attributes["connleak.evidence"]))


def spans_in(receiver: OtlpReceiver, trace: str) -> list[str]:
    """The names of the spans of a trace, without those of connections."""
    names = {span.name for span in receiver.spans if span.trace_id == trace}
    return sorted(name for name in names if not name.startswith("hold "))


@pytest.mark.parametrize(
    ("database", "arguments"),
    [(PERSISTENT, []), (POOL, ["--preload"])],
    ids=["persistent connections", "pool, preload"],
)
def test_shop(
    database: dict[str, Any], arguments: list[str], dsn: str, receiver: OtlpReceiver, tmp_path: Path
) -> None:
    """Each leak is blamed on its function, in its trace, in its process; the correct views report nothing."""
    env = (
        environment(
            DSN=dsn,
            DATABASE=json.dumps(database),
            DJANGO_SETTINGS_MODULE="django_shop.settings",
            MEETING=str(tmp_path),
            # The launcher reads the settings before gunicorn runs.
            PYTHONPATH=os.pathsep.join([str(APPS), os.environ.get("PYTHONPATH", "")]),
            OTEL_PYTHON_CONNLEAK_OVERDUE_AFTER=str(OVERDUE),
        )
        | WITH_FRAMEWORKS
        | exporting_to(receiver)
    )
    with gunicorn(*arguments, env=env) as shop:
        listed = [*shop.ask("customers"), *shop.ask("customers")]
        renamed = shop.ask("rename")
        shop.ask("tidy_background")
        exported = shop.ask("export")
        shop.ask("background")
        shop.wait_for_leaks(f"{REPOSITORY}.list_customers")
        idle = shop.ask("checkout", seconds=3 * OVERDUE)
        reserved = shop.ask("reserve")  # the last: Django cannot use the thread's connection any more
        shop.wait_for_leaks(f"{REPOSITORY}.reserve")
        shop.server.terminate()
        finished = shop.server.finish()
    logged = re.findall(r"^(\d+) WARNING (\w+) leak \(.*\]: (\S+)  ", finished.stderr, re.MULTILINE)
    leaks = events(receiver, "connleak.leak")
    workers = {answer["pid"] for answer in listed}

    assert finished.returncode == 0
    assert "Traceback" not in finished.stderr
    assert [answer["lines"] for answer in exported] == [["nobody", "customer 2", "customer 3"]] * 2
    # Each worker has reported three leaks, and nothing else, also not at its exit.
    assert sorted(logged) == sorted(
        (str(pid), *leak)
        for pid in workers
        for leak in (
            ("connection", f"{REPOSITORY}.list_customers"),
            ("transaction", "django_shop.views.checkout"),
            ("transaction", f"{REPOSITORY}.reserve"),
        )
    )
    assert len(workers) == 2
    assert len(leaks) == 6
    for leak in about(leaks, f"{REPOSITORY}.list_customers"):
        assert leak.attributes["thread.name"] == "refresher"
        assert evidence(leak) <= {"dropped", "thread_ended"}
        assert "refresh" in str(leak.attributes["code.stacktrace"])
    assert {leak.trace_id for leak in about(leaks, "django_shop.views.checkout")} == traces(idle)
    assert {leak.trace_id for leak in about(leaks, f"{REPOSITORY}.reserve")} == traces(reserved)
    assert all(evidence(leak) == {"overdue"} for leak in about(leaks, "django_shop.views.checkout"))
    assert all("dropped" in evidence(leak) for leak in about(leaks, f"{REPOSITORY}.reserve"))
    recovered = events(receiver, "connleak.recovered")
    assert len(about(recovered, "django_shop.views.checkout")) == len(recovered) == 2
    # The connection may be that of an earlier request: each query is in the trace of its own.
    for trace in traces(listed):
        assert spans_in(receiver, trace) == ["GET customers", "SELECT", "transaction customers"]
    for trace in traces(renamed):
        assert spans_in(receiver, trace) == [
            *("GET rename", "RELEASE", "SAVEPOINT", "UPDATE"),  # a block within that of the request
            "transaction rename",
        ]
