"""The demo: `python -m examples.demo` from the root of the repository. Exits 0 when every leak was named."""

from __future__ import annotations

import collections
import os
import platform
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from opentelemetry.util.re import parse_env_headers

from examples.demo import rendering, summary
from examples.demo.client import (
    LEAKING_REQUESTS,
    LOSING_REQUESTS,
    SLOW_REQUEST,
    SOUND_REQUESTS,
    Answer,
    BackgroundRequest,
    Client,
)
from examples.demo.forward import Forwarder
from examples.demo.postgres import count_orders, create_schema, embedded_postgres, folder_for_postgres
from examples.demo.progress import DemoFailed, Progress
from examples.demo.service import Service, shop_environment
from examples.demo.signals import enter, stop_on_signals
from examples.otlp_receiver import OtlpReceiver

_SCHEMA: Final = Path(__file__).parent.parent / "shop" / "schema.sql"


def main() -> int:
    """Starts everything, shows what happens, stops everything; returns the exit code."""
    stop_on_signals()
    progress = Progress()
    print(f"otel-connleak demo, Python {platform.python_version()}\n")
    try:
        with ExitStack() as stack:
            receiver, service, database_url = start(stack, progress)
            send_requests(service, database_url, progress)
            await_reports(receiver, service, progress)
            progress.say("stopping the shop: it exports what is left")
            service.stop()
    except DemoFailed as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        return 1
    return show(receiver, service)


def start(stack: ExitStack, progress: Progress) -> tuple[OtlpReceiver, Service, str]:
    """Starts PostgreSQL, the OTLP receiver and the shop; `stack` stops them. Raises DemoFailed.

    The string is the URL of the database.
    """
    folder = Path(enter(stack, folder_for_postgres()))
    progress.say("starting PostgreSQL in a temporary folder")
    database_url = enter(stack, embedded_postgres(folder))
    create_schema(database_url, _SCHEMA)
    forward = None
    if backend := os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        headers = parse_env_headers(os.environ.get("OTEL_EXPORTER_OTLP_HEADERS", ""), liberal=True)
        forward = enter(stack, Forwarder(backend, headers, progress.say))
        progress.say(f"everything goes to {backend} as well")
    receiver = enter(stack, OtlpReceiver(forward))
    progress.say("starting the shop: opentelemetry-instrument python -m shop")
    service = enter(stack, Service(shop_environment(database_url, receiver.endpoint)))
    progress.wait_until(lambda: service.url() or not service.running, 30, "the shop to listen")
    if service.url() is None:
        raise DemoFailed("the shop did not start. It printed:\n" + "\n".join(service.lines))
    progress.say(f"the shop listens on {service.url()}; its pool has 5 connections")
    return receiver, service, database_url


def send_requests(service: Service, database_url: str, progress: Progress) -> None:
    """Sends requests. Raises DemoFailed when no order is lost, or the pool does not run dry."""
    client = Client(str(service.url()))
    orders = count_orders(database_url)
    sound = SOUND_REQUESTS * 4
    progress.say(f"a slow report in the background, and {len(sound)} requests to functions without a bug")
    slow_request = BackgroundRequest(client, *SLOW_REQUEST)
    statuses = collections.Counter(client.send(*request).status for request in sound)
    progress.say("  " + ", ".join(f"{count} × {status}" for status, count in sorted(statuses.items())))
    progress.wait_until(lambda: slow_request.done, 20, "the slow report")
    report(progress, slow_request.answer())
    progress.say("gift orders, whose commit was forgotten: the pool rolls them back, and nobody notices")
    lost = [client.send(*request) for request in LOSING_REQUESTS]
    report(progress, *lost)
    statuses.update(answer.status for answer in lost)
    placed, orders = statuses[201], count_orders(database_url) - orders
    progress.say(f"  orders confirmed by the shop: {placed}, orders in the table: {orders}")
    if placed != orders + len(LOSING_REQUESTS):
        raise DemoFailed("no order was lost: these should have been confirmed, and rolled back")
    progress.say("requests that meet another bug, each of which costs the pool a connection")
    for request in LEAKING_REQUESTS:
        report(progress, client.send(*request))
    progress.say("requests to functions without a bug again")
    answers = [client.send(*request) for request in SOUND_REQUESTS[:2]]
    report(progress, *answers)
    if any(answer.status != 503 for answer in answers):
        raise DemoFailed("the pool did not run dry: these should have been answered with 503")


def report(progress: Progress, *answers: Answer) -> None:
    """Says what was answered."""
    for answer in answers:
        progress.say(f"  {answer.request} → {answer.status} after {rendering.duration(answer.seconds)}")


def await_reports(receiver: OtlpReceiver, service: Service, progress: Progress) -> None:
    """Waits for the reports, 10 s at most. Raises DemoFailed when the shop ended by itself."""
    progress.say("waiting for the reports (a possible leak is reported after a grace of 1 s)")

    def complete() -> bool:
        return not service.running or not summary.problems(
            receiver.spans, receiver.logs, log_records(service)
        )

    progress.wait_until(complete, 10, "the reports")
    if not service.running:
        raise DemoFailed("the shop ended by itself. It printed:\n" + "\n".join(service.lines))


def log_records(service: Service) -> list[str]:
    """What otel-connleak logged in the service."""
    return service.log_records(summary.SCOPE)


def show(receiver: OtlpReceiver, service: Service) -> int:
    """Prints what a user sees, and returns the exit code."""
    print(rendering.heading('what the shop logged about its full pool (logger "shop.api")'))
    print("\n".join(service.log_records("shop.api")))
    print(rendering.heading('what otel-connleak logged (logger "otel_connleak")'))
    print("\n".join(log_records(service)))
    print(rendering.heading("connections and transactions by function, added up from the exported spans"))
    print(rendering.function_table(summary.totals(receiver.spans)))
    for resource, what in ("connection", "leaked a connection"), ("transaction", "lost what it wrote"):
        print(rendering.heading(f"the trace of one request that {what}"))
        print(rendering.trace_tree(summary.leaking_trace(receiver.spans, resource)))
    found = summary.problems(receiver.spans, receiver.logs, log_records(service))
    if found:
        print("\nThe demo failed:\n  " + "\n  ".join(found), file=sys.stderr)
        return 1
    count = len(summary.LEAKS)
    print(f"\nAll {count} functions with a bug were named in the log, in a span and in an event; no other.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
