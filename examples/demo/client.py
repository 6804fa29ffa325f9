"""The shop's customers: requests that work, requests that meet a bug, and the status of each answer."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Final

from examples.demo.progress import DemoFailed

ORDER: Final = {"customer": 2, "product": 2, "quantity": 2}

SOUND_REQUESTS: Final = (
    ("GET", "/customers"),
    ("GET", "/customers/1"),
    ("GET", "/products"),
    ("POST", "/orders"),
    ("GET", "/orders?customer=2"),
    ("GET", "/orders/1"),
)
"""These give their connection back."""

SLOW_REQUEST: Final = ("GET", "/reports/revenue")
"""Its query takes two seconds; it gives its connection back."""

LOSING_REQUESTS: Final = (("POST", "/orders?gift=yes"),) * 2
"""Answered with the number of an order, which is rolled back when the connection goes back to its pool."""

LEAKING_REQUESTS: Final = (
    ("GET", "/customers?sort=nmae"),  # a typing error: the query raises
    ("GET", "/orders/4711"),  # no such order: an early return
    ("GET", "/products?q=tea"),  # never gives it back
    ("GET", "/customers?sort=phone"),
    ("GET", "/orders/4712"),
)
"""Each of these costs the pool one of its five connections."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for a request, and after how many seconds."""

    request: str
    status: int
    seconds: float


class Client:
    """Sends requests to the shop at `url`."""

    def __init__(self, url: str) -> None:
        self._url = url
        # Whatever proxy the environment names, the shop is on the loopback.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def send(self, method: str, path: str) -> Answer:
        """Sends one request and waits for its answer. Raises DemoFailed when none comes within 20 s."""
        body = json.dumps(ORDER).encode() if method == "POST" else None
        request = urllib.request.Request(
            self._url + path, data=body, method=method, headers={"Content-Type": "application/json"}
        )
        start = time.monotonic()
        try:
            with self._opener.open(request, timeout=20) as response:
                response.read()
                status = response.status
        except urllib.error.HTTPError as error:
            with error:
                status = error.code
        except OSError as error:
            raise DemoFailed(f"{method} {path} got no answer: {error}") from error
        return Answer(f"{method} {path}", status, time.monotonic() - start)


class BackgroundRequest:
    """One request, sent at once in a thread of its own."""

    def __init__(self, client: Client, method: str, path: str) -> None:
        self._outcome: Answer | DemoFailed | None = None
        self._thread = threading.Thread(target=self._send, args=(client, method, path), name="slow-request")
        self._thread.start()

    def _send(self, client: Client, method: str, path: str) -> None:
        try:
            self._outcome = client.send(method, path)
        except DemoFailed as error:
            self._outcome = error

    @property
    def done(self) -> bool:
        """True once it was answered or has failed."""
        return not self._thread.is_alive()

    def answer(self) -> Answer:
        """Waits for the answer. Raises DemoFailed when there is none."""
        self._thread.join()
        assert self._outcome is not None
        if isinstance(self._outcome, DemoFailed):
            raise self._outcome
        return self._outcome
