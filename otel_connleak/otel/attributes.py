"""Attributes of holds and leaks, the same on spans and log events (L3)."""

from __future__ import annotations

from typing import Any

from otel_connleak import names
from otel_connleak.claim import Leak
from otel_connleak.connection import Facts, Transaction
from otel_connleak.hold import CallSite, Ending, Evidence, Hold


def of_site(site: CallSite) -> dict[str, Any]:
    """The call site; the file's path is the interpreter's, in full."""
    return {
        names.CODE_FUNCTION_NAME: site.function,
        names.CODE_FILE_PATH: site.file,
        names.CODE_LINE_NUMBER: site.line,
    }


def of_connection(facts: Facts, pool: str | None) -> dict[str, Any]:
    """Server, database and pool, as far as they are known."""
    attributes = {
        names.DB_SYSTEM_NAME: facts.system,
        names.DB_NAMESPACE: facts.namespace,
        names.SERVER_ADDRESS: facts.address,
        names.SERVER_PORT: facts.port,
        names.SERVER_PID: facts.server_pid,
        names.POOL_NAME: pool,
    }
    return {name: value for name, value in attributes.items() if value is not None}


def of_leak(leak: Leak) -> dict[str, Any]:
    """Everything a report says, for the leak span and the leak event; times in seconds."""
    attributes: dict[str, Any] = {
        names.CODE_FUNCTION_NAME: leak.function,
        names.CODE_FILE_PATH: leak.file,
        names.CODE_LINE_NUMBER: leak.line,
        names.CODE_STACKTRACE: stacktrace(leak),
        names.THREAD_NAME: leak.thread,
        names.RESOURCE: str(leak.kind),
        names.USE_TIME: leak.use_time,
        names.IDLE_TIME: leak.idle_time,
        names.LEAK_ID: leak.id,
        names.FINGERPRINT: leak.fingerprint,
        names.EVIDENCE: tuple(str(kind) for kind in leak.evidence),
        names.CERTAINTY: str(leak.certainty),
    } | of_connection(leak.facts, leak.pool)
    if leak.task is not None:
        attributes[names.TASK_NAME] = leak.task
    if Evidence.DISCARDED in leak.evidence:
        attributes[names.TRANSACTION_OUTCOME] = str(Ending.DISCARDED)
    elif leak.transaction in (Transaction.OPEN, Transaction.ABORTED):
        attributes[names.TRANSACTION_OUTCOME] = str(Ending.OPEN)
    if leak.writes:
        attributes[names.TRANSACTION_WRITES] = leak.writes
    if leak.statement is not None:
        attributes[names.DB_QUERY_TEXT if leak.in_full else names.DB_QUERY_SUMMARY] = leak.statement
    return attributes


def of_idle(report: Leak) -> dict[str, Any]:
    """What the report of a hold says that sat idle: it is no leak, and so there is no evidence of one."""
    attributes = of_leak(report)
    del attributes[names.EVIDENCE], attributes[names.CERTAINTY]
    return attributes


def of_recovery(leak: Leak) -> dict[str, Any]:
    """What a recovery says: the same leak, with the times at its release."""
    hold: Hold = leak.hold
    return of_leak(leak) | {
        names.USE_TIME: hold.released - hold.acquired,
        names.IDLE_TIME: hold.idle_time(hold.released),
    }


def stacktrace(leak: Leak) -> str:
    """The application frames of the acquire in the interpreter's own form, the owner's first."""
    return "\n".join(f'File "{frame.file}", line {frame.line}, in {frame.function}' for frame in leak.frames)
