"""A leak as text for people and as a dictionary for programs (L2).

The wording follows three rules: complete on its own; say only what was observed; name one next step.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

from otel_connleak.claim import Leak
from otel_connleak.connection import Kind, Transaction
from otel_connleak.hold import Evidence, Hold
from otel_connleak.names import INSTRUMENTATION

_logger = logging.getLogger(INSTRUMENTATION)

_HINTS: Final = {
    Kind.CONNECTION: "use `with` or `try … finally: connection.close()` so that it is closed on every path",
    Kind.TRANSACTION: "commit or roll back on every path, and do slow work before or after the transaction",
    Kind.CURSOR: "use `with` so that it is closed on every path, or read it to its end",
}
_BEGAN: Final = {Kind.CONNECTION: "acquired at", Kind.TRANSACTION: "begun at", Kind.CURSOR: "opened at"}
_ENDED: Final = {
    Kind.CONNECTION: "gave the connection back",
    Kind.TRANSACTION: "ended the transaction",
    Kind.CURSOR: "closed the cursor",
}


def short_path(path: str) -> str:
    """A file's path as short as it stays clear: relative to the working directory or to an import folder."""
    try:
        folders = {os.getcwd(), *(os.path.abspath(folder) for folder in sys.path if folder)}
    except (OSError, TypeError):
        return path  # the working directory was removed, or something odd is on the import path
    for folder in sorted(folders, key=len, reverse=True):
        if path.startswith(folder.rstrip(os.sep) + os.sep):
            return path[len(folder.rstrip(os.sep)) + 1 :]
    return path


def leak_text(leak: Leak) -> str:
    """The report of a leak, several lines without a line break at the end."""
    evidence = ", ".join(leak.evidence)
    lines = [
        (
            f"{leak.kind} leak ({leak.certainty}, {evidence}) [{leak.fingerprint}]: "
            f"{leak.function}  {short_path(leak.file)}:{leak.line}"
        ),
        "  " + " · ".join(_facts(leak)),
    ]
    if leak.statement is not None and leak.last_call_age is not None:
        lines.append(f"  last statement {duration(leak.last_call_age)} ago: {leak.statement}")
    return "\n".join([*lines, *closing(leak, leak.hint or _HINTS[leak.kind])])


def closing(leak: Leak, hint: str) -> Iterable[str]:
    """The last lines of a report: where it was acquired, a hint, and how often it was seen."""
    if leak.frames:
        yield f"  {_BEGAN[leak.kind]}  {_path(leak)}"
    yield f"  hint: {hint}"
    repeats = f"repeats of [{leak.fingerprint}] are counted, not logged"
    if leak.occurrence > 1:
        since = time.strftime("%H:%M:%S", time.localtime(leak.since))
        yield f"  seen {leak.occurrence} times since {since}; further {repeats}"
    else:
        yield f"  further {repeats}"


def recovered_text(leak: Leak) -> str:
    """One line that withdraws the claim of a reported leak: what was held was released after all."""
    held = leak.hold.released - leak.hold.acquired
    return (
        f"recovered [{leak.fingerprint}]: {leak.function} {_ENDED[leak.kind]} after {duration(held)}, "
        f"late; not a leak  {short_path(leak.file)}:{leak.line}"
    )


def spared_text(holds: Iterable[Hold]) -> str:
    """One line on what was still held at exit by code that could have released it."""
    counts = Counter(hold.site.function for hold in holds)
    listed = ", ".join(f"{function} ({count})" for function, count in counts.most_common())
    return f"at exit {counts.total()} still held by code that could release them, no leaks: {listed}"


def leak_dict(leak: Leak) -> dict[str, Any]:
    """A leak as plain values, for programs; times in seconds."""
    return {
        "id": leak.id,
        "fingerprint": leak.fingerprint,
        "function": leak.function,
        "file": leak.file,
        "line": leak.line,
        "resource": str(leak.kind),
        "evidence": [str(kind) for kind in leak.evidence],
        "certainty": str(leak.certainty),
        "pool": leak.pool,
        "server_pid": leak.facts.server_pid,
        "thread": leak.thread,
        "task": leak.task,
        "trace": leak.trace,
        "use_time": leak.use_time,
        "idle_time": leak.idle_time,
        "transaction": str(leak.transaction),
        "writes": leak.writes,
        "statement": leak.statement,
        "detected": leak.detected,
        "occurrence": leak.occurrence,
    }


class LeakLog:
    """Writes the log lines: for the first leak of a fingerprint, the 10th, the 100th, and so on."""

    def leak(self, leak: Leak) -> None:
        """Log a leak at WARNING, unless it is a repeat."""
        if worth_a_line(leak):
            _logger.warning("%s", leak_text(leak))

    def recovered(self, leak: Leak) -> None:
        """Log at WARNING that a logged leak was released: whoever saw the claim sees it withdrawn."""
        if worth_a_line(leak):
            _logger.warning("%s", recovered_text(leak))

    def spared(self, holds: list[Hold]) -> None:
        """Log at INFO what was still held at exit and is no leak."""
        if holds:
            _logger.info("%s", spared_text(holds))


def worth_a_line(leak: Leak) -> bool:
    """Whether it is the first of its fingerprint in this process, the 10th, the 100th, and so on."""
    return str(leak.occurrence).rstrip("0") == "1"


def _facts(leak: Leak) -> Iterable[str]:
    yield f"held {duration(leak.use_time)}, idle {duration(leak.idle_time)}"
    writes = f"{leak.writes} {'write' if leak.writes == 1 else 'writes'}"
    if Evidence.DISCARDED in leak.evidence:
        yield f"{writes} lost: rolled back when the connection was released, never committed"
    elif leak.transaction in (Transaction.OPEN, Transaction.ABORTED):
        more = f", {writes}" if leak.writes else ""
        # What was written before the server has aborted it is lost anyway.
        yield "transaction open" + (", aborted" if leak.transaction is Transaction.ABORTED else more)
    elif leak.transaction is Transaction.ACTIVE:
        yield "a statement is running"
    yield from surroundings(leak)


def surroundings(leak: Leak) -> Iterable[str]:
    """Where it is held: pool or database, server process, task or thread, trace."""
    if leak.figures is not None:
        figures = leak.figures
        maximum = f"/{figures.maximum}" if figures.maximum else ""
        waiting = f", {figures.waiting} waiting" if figures.waiting else ""
        yield f'pool "{leak.pool}" {figures.used}{maximum} used{waiting}'
    elif leak.facts.namespace:
        direct = "direct connection to " if leak.kind is Kind.CONNECTION else ""
        yield f'{direct}database "{leak.facts.namespace}"'
    if leak.facts.server_pid is not None:
        yield f"server pid {leak.facts.server_pid}"
    if leak.task is not None:
        yield f"task {leak.task}"
    elif leak.thread != "MainThread":
        yield f"thread {leak.thread}"
    if leak.trace is not None:
        yield f"trace {leak.trace}"


def _path(leak: Leak) -> str:
    frames = [f"{short_path(frame.file)}:{frame.line} {_name(frame.function)}" for frame in leak.frames]
    return " ← ".join(frames)


def _name(function: str) -> str:
    return function.rpartition(".")[2]


def duration(seconds: float) -> str:
    """A time in seconds for people."""
    if seconds >= 10_000:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1000:.0f} ms"
