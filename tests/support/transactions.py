"""What has become of transactions: in the spans, and on the server."""

from typing import Any

import psycopg

from otel_connleak import open_holds
from tests.support.reports import Reports

ADD = "INSERT INTO customers (id, name) VALUES (4, 'new')"
"""A write into the table of `tests.support.postgres`."""


def ended(reports: Reports) -> list[tuple[str, str, int, int]]:
    """The transactions that have ended: function, outcome, statements, writes."""
    found = []
    for span in reports.telemetry.spans("transaction"):
        attributes: dict[str, Any] = dict(span.attributes or {})
        found.append(
            (
                _function(span.name),
                attributes["connleak.transaction.outcome"],
                attributes["connleak.statements"],
                attributes["connleak.transaction.writes"],
            )
        )
    return found


def closed_cursors(reports: Reports) -> list[str]:
    """The functions whose cursors have been closed."""
    return [_function(span.name) for span in reports.telemetry.spans("cursor")]


def open_cursors() -> list[str]:
    """The functions whose cursors are open."""
    return [_function(hold.function) for hold in open_holds() if hold.resource == "cursor"]


def _function(name: str) -> str:
    return name.rpartition(" ")[2].rpartition(".")[2]


def added(dsn: str) -> int:
    """How many customers there are on the server beyond the first three."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT count(*) FROM customers").fetchone()
    assert row is not None
    return int(row[0]) - 3
