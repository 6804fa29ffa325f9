"""The table of who holds what, as text (L5)."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

from otel_connleak.report import duration

WIDTH: Final = 120
"""Characters of a line where no terminal says otherwise."""
_TITLES: Final = ("HELD", "", "DOING", "POOL", "SERVER PID", "THREAD OR TASK", "LEAK", "LAST STATEMENT")
_WIDEST: Final = (10, 13, 24, 20, 10, 22, 6, WIDTH)
_NUMBERS: Final = ("HELD", "SERVER PID")

type Row = tuple[str, ...]


def table(answer: dict[str, Any], width: int = WIDTH) -> list[str]:
    """The lines for people: by function, the one with the oldest hold first, what is nested below it.

    Args:
        answer: what `otel_connleak.snapshot.snapshot` has made.
        width: no line is longer.
    """
    entries: list[dict[str, Any]] = sorted(answer["holds"], key=lambda entry: int(entry["number"]))
    lines = [*_heading(answer, entries)]
    numbers = {entry["number"] for entry in entries}
    inner: dict[int, list[dict[str, Any]]] = {}
    functions: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        if entry["within"] in numbers:
            inner.setdefault(entry["within"], []).append(entry)
        else:
            functions.setdefault(entry["function"], []).append(entry)
    rows = {name: list(_rows(held, inner)) for name, held in functions.items()}
    if rows:
        widths = _widths([row for each in rows.values() for row in each])
        lines += ["", _line(_TITLES, widths)]
    for name, held in functions.items():
        places = dict.fromkeys(f"{os.path.basename(entry['file'])}:{entry['line']}" for entry in held)
        lines.append(f"{name}  {', '.join(places)}  ({_counts(held)})")
        lines += [_line(row, widths) for row in rows[name]]
    return [_cut(line, width) for line in lines]


def _heading(answer: dict[str, Any], entries: list[dict[str, Any]]) -> Iterable[str]:
    at = time.strftime("%H:%M:%S", time.localtime(answer["time"]))
    functions = len({entry["function"] for entry in entries})
    by = f" by {functions} function{'s' if functions != 1 else ''}" if entries else ""
    yield f"process {answer['pid']} · Python {answer['python']} · {at} · held: {_counts(entries)}{by}"
    for pool in answer["pools"]:
        maximum = f" of {pool['maximum']}" if pool["maximum"] else ""
        waiting = f", {pool['waiting']} waiting" if pool["waiting"] else ""
        yield f'pool "{pool["name"]}": {pool["used"]}{maximum} used{waiting}'


def _counts(entries: Iterable[dict[str, Any]]) -> str:
    counts = Counter(entry["resource"] for entry in entries)
    listed = (f"{count} {kind}{'s' if count != 1 else ''}" for kind, count in counts.items())
    return ", ".join(listed) or "nothing"


def _rows(held: list[dict[str, Any]], inner: dict[int, list[dict[str, Any]]]) -> Iterable[Row]:
    for entry in held:
        yield (
            duration(entry["use_time"]),
            entry["resource"],
            _doing(entry),
            entry["pool"] or "",
            str(entry["server_pid"] or ""),
            str(entry["task"] or entry["thread"]),
            str(entry["leak"] or "").partition("-")[0],
            entry["statement"] or "",
        )
        for nested in inner.get(entry["number"], ()):
            elsewhere = nested["function"] != entry["function"]
            begun = f"begun by {'.'.join(nested['function'].split('.')[-2:])}" if elsewhere else ""
            said = nested["statement"] if nested["statement"] != entry["statement"] else None
            leak = str(nested["leak"] or "").partition("-")[0]
            what = "  ".join(part for part in (begun, said) if part)
            yield (
                duration(nested["use_time"]),
                f"└ {nested['resource']}",
                _doing(nested),
                "",
                "",
                "",
                leak,
                what,
            )


def _doing(entry: dict[str, Any]) -> str:
    if entry["resource"] == "transaction":
        state = "aborted" if entry["transaction"] == "aborted" else "open"
        writes = entry["writes"]
        return f"{state}, {writes} write{'s' if writes != 1 else ''}" if writes else state
    if entry["busy_for"] is not None:
        return f"busy {duration(entry['busy_for'])}"
    return f"idle {duration(entry['idle_for'] or 0.0)}"


def _widths(rows: Sequence[Row]) -> list[int]:
    """The width of each column, 0 for one that is empty."""
    widths = []
    for title, widest, cells in zip(_TITLES, _WIDEST, zip(*rows, strict=True), strict=True):
        longest = max(len(cell) for cell in cells)
        widths.append(min(widest, max(longest, len(title))) if longest else 0)
    return widths


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    shown = []
    for cell, title, width in zip(cells, _TITLES, widths, strict=True):
        if width:
            text = _cut(cell, width)
            shown.append(text.rjust(width) if title in _NUMBERS else text.ljust(width))
    return "  " + "  ".join(shown).rstrip()


def _cut(text: str, width: int) -> str:
    """At most so many characters, and none that does something to a terminal: names come from anywhere."""
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= width else f"{text[: width - 1]}…"
