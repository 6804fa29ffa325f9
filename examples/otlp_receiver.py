"""An OTLP/HTTP receiver on the loopback that keeps what it gets, for the demo and the tests.

with OtlpReceiver() as receiver:
    start_a_service(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint)
    assert receiver.wait_for(lambda: any(span.name == "work" for span in receiver.spans), timeout=10)
"""

from __future__ import annotations

import gzip
import threading
import time
import zlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from google.protobuf.message import DecodeError

from examples.otlp_records import LogRecord, MetricPoint, Span, decode_logs, decode_metrics, decode_spans

type Forward = Callable[[str, bytes], None]
"""Gets the path and the uncompressed body of each request that was understood."""


class OtlpReceiver:
    """Receives traces, logs and metrics as protobuf over HTTP, from entering the `with` block to leaving it.

    Args:
        forward: called with each request, after it was kept. It must not block for long and must not raise.
    """

    def __init__(self, forward: Forward | None = None) -> None:
        self._forward = forward
        # Guards the three lists, and is notified when something was added to one.
        self._arrived = threading.Condition()
        self._spans: list[Span] = []
        self._logs: list[LogRecord] = []
        self._metrics: list[MetricPoint] = []
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="otlp-receiver")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        """The value for OTEL_EXPORTER_OTLP_ENDPOINT; use it with the protocol http/protobuf."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def spans(self) -> list[Span]:
        """All spans so far, in order of arrival."""
        with self._arrived:
            return list(self._spans)

    @property
    def logs(self) -> list[LogRecord]:
        """All log records so far, in order of arrival."""
        with self._arrived:
            return list(self._logs)

    @property
    def metrics(self) -> list[MetricPoint]:
        """All metric points so far, in order of arrival: one for each series and export."""
        with self._arrived:
            return list(self._metrics)

    def latest(self, name: str) -> list[MetricPoint]:
        """The newest point of each series of the metric `name`."""
        series = {}
        for point in self.metrics:
            if point.name == name:
                series[repr((sorted(point.attributes.items()), sorted(point.resource.items())))] = point
        return list(series.values())

    def clear(self) -> None:
        """Forgets everything that came so far."""
        with self._arrived:
            self._spans.clear()
            self._logs.clear()
            self._metrics.clear()

    def wait_for(self, predicate: Callable[[], object], timeout: float) -> bool:
        """Waits until `predicate` is true, at most `timeout` seconds; says whether it became true.

        It is asked again after each request that arrives.
        """
        deadline = time.monotonic() + timeout
        with self._arrived:  # reentrant, so the predicate may read `spans`, `logs` and `metrics`
            while not predicate():
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return False
                self._arrived.wait(remaining)
        return True

    def receive(self, path: str, body: bytes) -> bool:
        """Keeps one uncompressed request; False when the path is not one of OTLP's. Raises DecodeError."""
        spans = decode_spans(body) if path == "/v1/traces" else []
        logs = decode_logs(body) if path == "/v1/logs" else []
        metrics = decode_metrics(body) if path == "/v1/metrics" else []
        if path not in ("/v1/traces", "/v1/logs", "/v1/metrics"):
            return False
        with self._arrived:
            self._spans += spans
            self._logs += logs
            self._metrics += metrics
            self._arrived.notify_all()
        if self._forward is not None:
            self._forward(path, body)
        return True


class _Server(ThreadingHTTPServer):
    # Closing waits for the requests being handled, so that no thread outlives the receiver.
    daemon_threads = False

    def __init__(self, receiver: OtlpReceiver) -> None:
        self.receiver = receiver
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    # HTTP/1.0 (the default) closes after each answer: no idle connection of an exporter is left to wait for.
    timeout = 10
    server: _Server

    def do_POST(self) -> None:
        """Answers 200 to what was kept, else 400, 404 or 415."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Type") != "application/x-protobuf":
            return self._answer(415)
        try:
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            self._answer(200 if self.server.receiver.receive(self.path, body) else 404)
        except (DecodeError, OSError, EOFError, zlib.error):
            self._answer(400)

    def _answer(self, status: int) -> None:
        # An empty body is an empty Export…ServiceResponse: everything was accepted.
        self.send_response(status)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        """Keeps the access log out of the demo's output."""
