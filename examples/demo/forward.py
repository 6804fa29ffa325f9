"""Sends what the demo receives on to the user's own backend, when OTEL_EXPORTER_OTLP_ENDPOINT names one."""

from __future__ import annotations

import queue
import threading
import urllib.request
from collections.abc import Callable, Mapping
from typing import Final, Self

_TIMEOUT: Final = 5.0


class Forwarder:
    """Posts each OTLP request to `endpoint`, in a thread of its own, while its `with` block runs.

    A backend that does not answer is given up at once and never fails the demo: `say` gets one line about it.
    """

    def __init__(self, endpoint: str, headers: Mapping[str, str], say: Callable[[str], None]) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._headers = {"Content-Type": "application/x-protobuf", **headers}
        self._say = say
        self._requests: queue.SimpleQueue[tuple[str, bytes] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._send_all, name="otlp-forwarder")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._requests.put(None)
        self._thread.join()

    def __call__(self, path: str, body: bytes) -> None:
        """Takes one request; returns at once."""
        self._requests.put((path, body))

    def _send_all(self) -> None:
        given_up = False
        while (item := self._requests.get()) is not None:
            if given_up:
                continue
            path, body = item
            try:
                request = urllib.request.Request(self._endpoint + path, data=body, headers=self._headers)
                with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
                    response.read()
            except (OSError, ValueError) as error:
                given_up = True
                self._say(
                    f"  {self._endpoint} takes no OTLP over HTTP ({error}): the demo goes on without it"
                )
