"""Runs the shop as its owner would: a process of its own, under `opentelemetry-instrument`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final, Self

from examples.demo.signals import signals_held

_SHOP: Final = Path(__file__).parent.parent / "shop"
_LOG_LINE: Final = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ ([\w.]+): ")
_STOP_TIMEOUT: Final = 15.0


def shop_environment(database_url: str, otlp_endpoint: str) -> dict[str, str]:
    """The environment variables of the shop: exports every half a second, reports a leak after one."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    for name in ("no_proxy", "NO_PROXY"):  # the receiver is on the loopback
        inherited[name] = ",".join(filter(None, [inherited.get(name), "127.0.0.1"]))
    return {
        **inherited,
        "DATABASE_URL": database_url,
        "PORT": "0",
        "POOL_TIMEOUT": "1",
        "PYTHONUNBUFFERED": "1",
        "OTEL_SERVICE_NAME": "shop",
        "OTEL_RESOURCE_ATTRIBUTES": os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""),
        "OTEL_EXPORTER_OTLP_ENDPOINT": otlp_endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_BSP_SCHEDULE_DELAY": "500",
        "OTEL_BLRP_SCHEDULE_DELAY": "500",
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
        "OTEL_PYTHON_CONNLEAK_GRACE": "1",
    }


class Service:
    """The shop in a process of its own while its `with` block runs; keeps what it prints."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._lines: list[str] = []

    def __enter__(self) -> Self:
        launcher = Path(sys.executable).with_name("opentelemetry-instrument")
        self._process = subprocess.Popen(
            [launcher, sys.executable, "-m", "shop"],
            cwd=_SHOP,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # a Ctrl-C in the terminal is for the demo, which then stops the shop
        )
        self._reader = threading.Thread(target=self._read, name="shop-log")
        self._reader.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line.rstrip("\n"))

    @property
    def running(self) -> bool:
        """False once the process has ended."""
        return self._process.poll() is None

    @property
    def lines(self) -> list[str]:
        """Everything that it has printed so far."""
        return list(self._lines)

    def log_records(self, logger: str) -> list[str]:
        """What this logger has printed, record by record, each with all its lines."""
        records: list[str] = []
        ours = False
        for line in self.lines:
            start = _LOG_LINE.match(line)
            if start is not None:
                ours = start.group(1) == logger
            if ours and start is not None:
                records.append(line)
            elif ours:
                records[-1] += "\n" + line
        return records

    def url(self) -> str | None:
        """Where it listens; None while it starts."""
        for line in self.lines:
            if " listening on " in line:
                return line.rpartition(" ")[2]
        return None

    def stop(self) -> int:
        """Stops it with SIGTERM, after 15 s with SIGKILL, and returns its exit code. May be called again."""
        with signals_held():
            if self.running:
                self._process.terminate()
                try:
                    self._process.wait(_STOP_TIMEOUT)
                except subprocess.TimeoutExpired:
                    os.killpg(self._process.pid, signal.SIGKILL)
            code = self._process.wait()
            self._reader.join()
            if self._process.stdout is not None:
                self._process.stdout.close()
        return code
