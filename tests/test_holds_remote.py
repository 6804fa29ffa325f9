"""``otel-connleak holds`` asks a process in which nothing is prepared, from Python 3.14 on."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from otel_connleak.cli import remote
from otel_connleak.cli.process import NoAnswer, Target, find
from otel_connleak.cli.remote import by_remote_exec
from otel_connleak.instrumentor import engine
from tests.support.asked import answer, holds
from tests.support.launcher import APPS, Launched, environment, launch
from tests.support.telemetry import Telemetry
from tests.support.waiting import wait_until

PROGRAM = APPS / "unprepared.py"
ours = sys.version_info.minor
has_remote_exec = pytest.mark.skipif(
    not hasattr(sys, "remote_exec"), reason=f"sys.remote_exec is new in Python 3.14, this is 3.{ours}"
)


@contextmanager
def started(way: str, *, instrument: bool = True, **variables: str) -> Iterator[Launched]:
    """Start the program, without a socket, and wait until it holds its connection."""
    with launch(PROGRAM, way, env=environment(**variables), instrument=instrument) as program:
        program.wait_for_output("^ready$")
        yield program


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, of this test alone: others run at the same time."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def left_in(temporary: Path) -> list[Path]:
    """What the command has left there."""
    return list(temporary.glob("otel-connleak-????????*"))


@has_remote_exec
def test_nothing_prepared(temporary: Path) -> None:
    """It answers, the program is not disturbed, and no file is left."""
    with started("go on") as program:
        said = answer(program.process.pid)
        program.say()
        finished = program.finish()

    assert [entry["function"] for entry in said["holds"]] == ["__main__.find_customer"]
    assert (said["pid"], said["holds"][0]["resource"]) == (program.process.pid, "connection")
    assert (finished.returncode, finished.stderr) == (0, "")
    assert left_in(temporary) == []


@has_remote_exec
def test_stuck_main_thread() -> None:
    """A main thread that runs no Python cannot answer: the error says why, and nothing happens later."""
    with started("stuck") as program:
        pid = program.process.pid
        with pytest.raises(NoAnswer) as raised:
            by_remote_exec(find(pid), patience=0.5)
        program.say()
        finished = program.finish()

    assert str(raised.value) == (
        f"process {pid} has not answered for 0.5 s: its main thread has run no Python meanwhile, because it "
        "waits for a lock or in a system call; started with OTEL_PYTHON_CONNLEAK_SOCKET=1 it answers even "
        "then"
    )
    assert (finished.returncode, finished.stderr) == (0, "")


@has_remote_exec
def test_not_instrumented() -> None:
    """A process that is not instrumented says so."""
    with started("go on", instrument=False) as program:
        done = holds(program.process.pid)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: process {program.process.pid} (Python 3.{ours}) is not instrumented with otel-connleak\n"
    )


@has_remote_exec
def test_switched_off() -> None:
    """Where the service does not let itself be asked in this way, the error says so and names the setting."""
    with started("go on", PYTHON_DISABLE_REMOTE_DEBUG="1") as program:
        done = holds(program.process.pid)

    assert (done.returncode, done.stdout) == (1, "")
    assert "Remote debugging is not enabled" in done.stderr
    assert "start the service with OTEL_PYTHON_CONNLEAK_SOCKET=1" in done.stderr


def target(program: str | None, minor: int | None) -> Target:
    """A process of our own that runs this program."""
    return Target(os.getpid(), (os.geteuid(),), os.getpid(), program, minor)


def test_another_python() -> None:
    """The two Pythons must be of one version: otherwise the error says which one is needed."""
    newer = max(15, ours + 1)
    with pytest.raises(NoAnswer) as raised:
        by_remote_exec(target(f"/usr/bin/python3.{newer}", newer))
    assert str(raised.value) == (
        f"process {os.getpid()} (Python 3.{newer}) has no socket, and this is Python 3.{ours}: install "
        f"otel-connleak for Python 3.{newer} as well and ask with that, or start the service with "
        "OTEL_PYTHON_CONNLEAK_SOCKET=1"
    )


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (
            PermissionError(1, "Operation not permitted"),
            "not permitted to ask process {pid}: the system does not ",
        ),
        (ProcessLookupError(3, "No such process"), "there is no process {pid}"),
        (
            RuntimeError("Failed to find the section"),
            "process {pid} (Python 3.99) cannot be asked: Failed to find",
        ),
    ],
)
def test_refused(raised: Exception, said: str, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the interpreter refuses is one clear error, and no file is left."""

    def remote_exec(_pid: int, _script: str) -> None:
        raise raised

    monkeypatch.setattr(remote, "_remote_exec", lambda _target: remote_exec)
    with pytest.raises(NoAnswer) as error:
        by_remote_exec(target("/usr/bin/python3.99", 99))
    assert str(error.value).startswith(said.format(pid=os.getpid()))
    assert left_in(temporary) == []


def run_here(_pid: int, script: str) -> None:
    """What the interpreter does with the script in the main thread of the process."""
    assert Path(script).stat().st_mode & 0o777 == 0o600
    exec(compile(Path(script).read_text(encoding="utf-8"), script, "exec"), {})


def asked_here(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The script's answer in this process."""
    monkeypatch.setattr(remote, "_remote_exec", lambda _target: run_here)
    said: dict[str, Any] = json.loads(by_remote_exec(target("python", ours)))
    return said


def test_script(telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script asks the running instrumentation in a thread of its own, which ends."""
    with telemetry.instrumented():
        assert asked_here(monkeypatch)["pid"] == os.getpid()
    assert asked_here(monkeypatch) == {"error": "not instrumented"}


def test_script_of_another_version(telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that knows nothing of this says that it is another one."""
    with telemetry.instrumented():
        running = engine()
        assert running is not None
        monkeypatch.delattr(running.socket, "answer")
        assert asked_here(monkeypatch) == {"error": "other version"}


def test_answer_of_somebody_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A link in place of the answer is not followed: where root asks, it is in a folder of somebody else."""
    secret = tmp_path / "secret"
    secret.write_text("a secret", encoding="utf-8")

    def link(_pid: int, script: str) -> None:
        Path(script).with_name("answer.json").symlink_to(secret)

    monkeypatch.setattr(remote, "_remote_exec", lambda _target: link)
    with pytest.raises(NoAnswer, match="is no file of its own"):
        by_remote_exec(target("python", ours))


def test_process_that_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the process ends before it answers, the error says so at once."""
    with subprocess.Popen(["sleep", "60"]) as program:
        asked = Target(program.pid, (os.geteuid(),), program.pid, "python", ours)

        def end(_pid: int, _script: str) -> None:
            program.kill()
            program.wait()

        monkeypatch.setattr(remote, "_remote_exec", lambda _target: end)
        with pytest.raises(NoAnswer, match=f"^process {program.pid} has ended$"):
            by_remote_exec(asked)
    wait_until(lambda: program.poll() is not None, "the end")
