"""Under gunicorn each worker watches and reports its own connections, with and without ``--preload``."""

import json
import re
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from examples.otlp_receiver import OtlpReceiver
from tests.support.launcher import APPS, LAUNCHER, Launched, environment, exporting_to
from tests.support.waiting import wait_until

NAME = "wsgi.CustomerRepository.find_customer"


@contextmanager
def gunicorn(*arguments: str, env: dict[str, str]) -> Iterator[tuple[Launched, str]]:
    """Start gunicorn with two workers under the launcher; gives it and its address."""
    command = [str(LAUNCHER), sys.executable, "-m", "gunicorn", "--workers=2", "--bind=127.0.0.1:0"]
    command += [f"--chdir={APPS}", *arguments, "wsgi:application"]
    with Launched(command, env) as server:
        address = server.wait_for_output(r"Listening at: (http://\S+)")[1]
        wait_until(lambda: len(re.findall(r"Booting worker with pid", server.stderr)) == 2, "two workers")
        yield server, address


def ask_both_workers(address: str) -> list[dict[str, Any]]:
    """Send two requests at once; each worker takes one of them."""

    def ask(_: int) -> dict[str, Any]:
        with urllib.request.urlopen(address, timeout=30) as response:
            answer: dict[str, Any] = json.load(response)
            return answer

    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(ask, range(2)))


@pytest.mark.parametrize("arguments", [[], ["--preload"]], ids=["workers load", "preload"])
def test_each_worker_reports_its_own(
    arguments: list[str], dsn: str, receiver: OtlpReceiver, tmp_path: Path
) -> None:
    """A leak in each of two workers is reported by that worker, in every signal; the master reports none."""
    env = environment(DSN=dsn, MEETING=str(tmp_path)) | exporting_to(receiver)
    with gunicorn(*arguments, env=env) as (server, address):
        answers = ask_both_workers(address)
        for answer in answers:
            server.wait_for_output(rf"^{answer['pid']} WARNING connection leak \(confirmed, dropped")
        server.terminate()
        finished = server.finish()
    leaks = [log for log in receiver.logs if log.event_name == "connleak.leak"]

    assert finished.returncode == 0
    assert "Traceback" not in finished.stderr
    assert len({answer["pid"] for answer in answers}) == 2
    assert server.process.pid not in {answer["pid"] for answer in answers}
    assert [answer["inherited"] for answer in answers] == [0, 0]
    reporters = [line.split()[0] for line in finished.leaks if f"]: {NAME}  " in line]
    assert sorted(map(int, reporters)) == sorted(answer["pid"] for answer in answers)
    assert len(finished.leaks) == 2
    assert [log.attributes["code.function.name"] for log in leaks] == [NAME, NAME]
    assert len({log.attributes["connleak.id"] for log in leaks}) == 2
    assert len({log.attributes["connleak.fingerprint"] for log in leaks}) == 1
    assert sorted(span.name for span in receiver.spans if span.scope == "otel_connleak") == [
        *["hold CustomerRepository.find_customer"] * 2,
        *["leak CustomerRepository.find_customer"] * 2,
        *["transaction CustomerRepository.find_customer"] * 2,
    ]
