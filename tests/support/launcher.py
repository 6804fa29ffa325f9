"""Starts a Python program under the real ``opentelemetry-instrument``, and reads what it says."""

import os
import re
import signal
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from examples.otlp_receiver import OtlpReceiver
from tests.support.waiting import wait_until

LAUNCHER = Path(sysconfig.get_path("scripts"), "opentelemetry-instrument")
APPS = Path(__file__).parent.parent / "apps"
"""The programs that tests start."""

WITHOUT_EXPORTERS = {
    "OTEL_TRACES_EXPORTER": "none",
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_LOGS_EXPORTER": "none",
}
DISABLED = "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"
DRIVERS = "asyncpg,psycopg2,sqlalchemy,sqlite3"
FRAMEWORKS = f"asgi,celery,django,fastapi,{DRIVERS}"
"""Instrumentations that import their libraries at the start of every program: a second for nothing."""
WITH_FRAMEWORKS = {DISABLED: DRIVERS}
"""Switches those of frameworks on, for a program on one of them."""
QUICK = {
    "OTEL_PYTHON_CONNLEAK_GRACE": "0.2",
    "OTEL_BSP_SCHEDULE_DELAY": "200",
    "OTEL_BLRP_SCHEDULE_DELAY": "200",
    "OTEL_METRIC_EXPORT_INTERVAL": "300",
}
"""Settings that make a test fast and change no decision."""


@dataclass(frozen=True)
class Finished:
    """What is left of a program that has ended."""

    stdout: str
    stderr: str
    returncode: int

    @property
    def leaks(self) -> list[str]:
        """The first lines of all leak reports on stderr."""
        return [line for line in self.stderr.splitlines() if "connection leak (" in line]


class Launched:
    """A program that runs; leaving the ``with`` block terminates it and what it started."""

    def __init__(self, command: list[str], env: Mapping[str, str], cwd: Path | None = None) -> None:
        self.process = subprocess.Popen(
            command,
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._stdout = _Reader(self.process.stdout)
        self._stderr = _Reader(self.process.stderr)

    @property
    def stdout(self) -> str:
        """What it has written to its standard output so far."""
        return self._stdout.text

    @property
    def stderr(self) -> str:
        """What it has written to its standard error so far."""
        return self._stderr.text

    def wait_for_output(self, pattern: str, timeout: float = 30.0) -> re.Match[str]:
        """Wait until a regular expression is found in stdout or stderr.

        Raises:
            AssertionError: it was not found in ``timeout`` seconds, or the program ended without it.
        """
        compiled = re.compile(pattern, re.MULTILINE)

        def found_or_ended() -> re.Match[str] | bool | None:
            ended = self.process.poll() is not None and self._stdout.done and self._stderr.done
            return compiled.search(self.stdout) or compiled.search(self.stderr) or ended

        try:
            found = wait_until(found_or_ended, f"{pattern!r} in the output", timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self._said()}") from None
        assert isinstance(found, re.Match), f"it ended without saying {pattern!r}\n{self._said()}"
        return found

    def finish(self, timeout: float = 60.0) -> Finished:
        """Wait until the program has ended.

        Raises:
            AssertionError: it still ran after ``timeout`` seconds.
        """
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout:g} s\n{self._said()}") from None
        for reader in (self._stdout, self._stderr):
            reader.join(timeout)  # It ends when the last child of the program has ended, too.
            assert reader.done, f"it has ended, but a child still has its output open\n{self._said()}"
        return Finished(self.stdout, self.stderr, self.process.returncode)

    def say(self, word: str = "") -> None:
        """Write a line to the program's standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n".encode())
        self.process.stdin.flush()

    def terminate(self, number: int = signal.SIGTERM) -> None:
        """Send the program a signal, by default SIGTERM; its children get none."""
        self.process.send_signal(number)

    def _said(self) -> str:
        return f"--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # It has ended, with all of its children.
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()
        self._stdout.join()
        self._stderr.join()


class _Reader(threading.Thread):
    """Reads one stream of a program to its end, so that the program never waits for us."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        super().__init__(daemon=True)
        assert stream is not None
        self._stream = stream
        self._text = ""
        self.start()

    def run(self) -> None:
        with self._stream:
            for line in self._stream:
                self._text += line.decode("utf-8", "replace")

    @property
    def text(self) -> str:
        return self._text

    @property
    def done(self) -> bool:
        return not self.is_alive()


def environment(**variables: str) -> dict[str, str]:
    """Our environment without OpenTelemetry's variables, then the settings above, then ``variables``."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    defaults = {"PYTHONUNBUFFERED": "1", DISABLED: FRAMEWORKS}
    return inherited | WITHOUT_EXPORTERS | QUICK | defaults | variables


def exporting_to(receiver: OtlpReceiver) -> dict[str, str]:
    """The variables that make a program send its traces, logs and metrics to a receiver."""
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_LOGS_EXPORTER": "otlp",
        "OTEL_SERVICE_NAME": "store",
    }


def launch(program: Path, *arguments: str, env: Mapping[str, str], instrument: bool = True) -> Launched:
    """Start a Python file under the launcher, or without it with ``instrument=False``.

    Args:
        program: the file; its folder comes first on the module search path, as always in Python.
        arguments: passed to the program.
        env: its whole environment, usually from `environment`.
        instrument: whether ``opentelemetry-instrument`` starts it.
    """
    command = [sys.executable, str(program), *arguments]
    return Launched([str(LAUNCHER), *command] if instrument else command, env)


def run(
    program: Path, *arguments: str, env: Mapping[str, str], timeout: float = 60.0, instrument: bool = True
) -> Finished:
    """Start a Python file as `launch` does, and wait until it has ended.

    Raises:
        AssertionError: it still ran after ``timeout`` seconds.
    """
    with launch(program, *arguments, env=env, instrument=instrument) as launched:
        return launched.finish(timeout)
