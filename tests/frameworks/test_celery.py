"""Celery with processes that are forked: each watches its own connections, in the trace of its task."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from examples.otlp_receiver import OtlpReceiver
from tests.frameworks.service import LONGER_THAN_GRACE, Report, expect, holds, trace_parent
from tests.support.launcher import APPS, LAUNCHER, WITH_FRAMEWORKS, Launched, environment, exporting_to
from tests.support.waiting import wait_until

CORRECT = ("names", "slowly")
LEAKING = {
    "find": "celery_shop.OrderRepository.find",
    "forget": "celery_shop.OrderRepository.forget",
}


@pytest.fixture
def broker(tmp_path: Path) -> Path:
    """A folder that is the broker, and takes the results."""
    for name in ("queue", "control", "results"):
        (tmp_path / name).mkdir()
    return tmp_path


@contextmanager
def worker(dsn: str, receiver: OtlpReceiver, broker: Path) -> Iterator[Launched]:
    """A worker with two processes under the launcher."""
    command = [
        str(LAUNCHER),
        sys.executable,
        "-m",
        "celery",
        "--app=celery_shop",
        f"--workdir={APPS}",
        "worker",
    ]
    command += ["--pool=prefork", "--concurrency=2", "--loglevel=INFO"]
    command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    env = (
        environment(DSN=dsn, BROKER=str(broker), SLOW=str(LONGER_THAN_GRACE))
        | WITH_FRAMEWORKS
        | exporting_to(receiver)
    )
    with Launched(command, env) as launched:
        launched.wait_for_output("celery@.* ready")
        yield launched


def send(broker: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Send tasks, and wait until they are done; gives the trace of each."""
    from celery import Celery

    app = Celery(broker="filesystem://", backend=f"file://{broker}/results")
    folder = str(broker / "queue")
    app.conf.broker_transport_options = {
        "data_folder_in": folder,
        "data_folder_out": folder,
        "control_folder": str(broker / "control"),
    }
    traces, results = {}, []
    for name in names:
        traces[name], parent = trace_parent()
        results.append(app.send_task(f"celery_shop.{name}", headers={"traceparent": parent}))
    wait_until(lambda: all(result.ready() for result in results), "the tasks to be done")
    app.close()
    return traces


def test_tasks(dsn: str, receiver: OtlpReceiver, broker: Path) -> None:
    """Leaks are blamed on the functions that acquired, in their tasks' traces; correct tasks on nobody."""
    with worker(dsn, receiver, broker) as launched:
        traces = send(broker, (*CORRECT, *LEAKING, *CORRECT))
        expect(receiver, {Report(LEAKING[name], traces[name]) for name in LEAKING}, launched)
        launched.terminate()
        finished = launched.finish()

    assert finished.returncode == 0
    assert {"OrderRepository.names", "OrderRepository.slowly"} <= holds(receiver)
