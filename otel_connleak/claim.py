"""A leak as it is reported: a hold with sufficient evidence, and all that a reader needs, read once (L0)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from otel_connleak.connection import Facts, Kind, PoolFigures, Transaction
from otel_connleak.hold import Certainty, Evidence, Hold


class StackFrame(NamedTuple):
    """One application frame of an acquire, ready to be shown."""

    function: str
    file: str
    line: int


@dataclass(frozen=True, slots=True, eq=False)
class Leak:
    """One reported leak. Times are seconds.

    Attributes:
        id: this leak, unique over processes: the fingerprint and eight random hexadecimal digits.
        fingerprint: the leak's site, equal over processes and restarts: pool, function, kind and evidence.
        function: the function to blame, ``module.Class.function``.
        short: the same without its module.
        file: path of the acquire's file as the interpreter knows it.
        line: line of the acquire.
        kind: what leaked.
        evidence: what was observed, the one that led to the report first.
        certainty: whether somebody could still release it.
        pool: name of the pool, or None for a direct connection.
        figures: how full the pool is, or None for a direct connection.
        hint: one sentence on how to release on every path; empty if the library has none.
        facts: server, database and server process.
        thread: name of the thread of the acquire.
        task: name of the asyncio task of the acquire, or None.
        trace: trace id as 32 hexadecimal digits, or None outside of a trace.
        use_time: held for so long at detection.
        idle_time: of which no driver call ran.
        calls: number of driver calls.
        last_call_age: since the last driver call ended, or None if there was none.
        transaction: the transaction status at detection.
        writes: statements that have written in the open transaction, or in the one that this is about.
        statement: the last statement as the settings allow it to be shown, or None.
        in_full: whether the statement is its whole text, and not a summary.
        frames: application frames of the acquire, nearest first.
        detected: time of the detection in seconds since the epoch.
        occurrence: how many leaks of this fingerprint this process has seen, this one included.
        since: time of the first of them in seconds since the epoch.
        hold: the hold itself, for listeners that have state of their own on it.
    """

    id: str
    fingerprint: str
    function: str
    short: str
    file: str
    line: int
    kind: Kind
    evidence: tuple[Evidence, ...]
    certainty: Certainty
    pool: str | None
    figures: PoolFigures | None
    hint: str
    facts: Facts
    thread: str
    task: str | None
    trace: str | None
    use_time: float
    idle_time: float
    calls: int
    last_call_age: float | None
    transaction: Transaction
    writes: int
    statement: str | None
    in_full: bool
    frames: tuple[StackFrame, ...]
    detected: float
    occurrence: int
    since: float
    hold: Hold
