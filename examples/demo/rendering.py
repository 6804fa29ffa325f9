"""Tables and trees of plain text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from examples.demo.summary import FunctionTotals
from examples.otlp_records import Span


def heading(text: str) -> str:
    """A line that opens a new part of the output."""
    return f"\n── {text} " + "─" * max(0, 96 - len(text))


def short_name(function: str) -> str:
    """`Class.function` of a fully qualified name."""
    return ".".join(function.split(".")[-2:])


def function_table(rows: Iterable[FunctionTotals]) -> str:
    """One line a function: its connections, its transactions, its leaks."""
    lines = [
        (
            f"{'function':<34}{'acquired':>9}{'released':>10}{'open':>6}{'longest hold':>14}"
            f"{'transactions':>14}{'discarded':>11}{'leaks':>7}"
        )
    ]
    lines += [
        f"{short_name(row.function):<34}{row.acquired:>9}{row.released:>10}{row.open:>6}"
        f"{duration(row.longest):>14}{row.transactions:>14}{row.discarded:>11}{row.leaks:>7}"
        + ("  ◀" if row.leaks else "")
        for row in rows
    ]
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Seconds for people: `3.2 ms`, `2.0 s`."""
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


def trace_tree(spans: Iterable[Span]) -> str:
    """The spans of one trace as a tree, children in order of their start."""
    ordered = sorted(spans, key=lambda span: span.start_ns)
    known = {span.span_id for span in ordered}
    children: dict[str, list[Span]] = {}
    for span in ordered:
        children.setdefault(span.parent_span_id if span.parent_span_id in known else "", []).append(span)
    return "\n".join(line for root in children.get("", []) for line in _subtree(root, children, "", ""))


def _subtree(span: Span, children: dict[str, list[Span]], first: str, rest: str) -> Iterator[str]:
    """The lines of a span and of what is below it, indented by `first`, then by `rest`."""
    name = first + span.name
    yield f"{name:<52}{span.span_id[:6]:<7}{duration(span.seconds):>9}  {_remarks(span)}".rstrip()
    below = children.get(span.span_id, [])
    for child in below:
        last = child is below[-1]
        yield from _subtree(
            child, children, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  ")
        )


def _remarks(span: Span) -> str:
    """What is worth knowing of a span beside its name and time."""
    remarks = []
    if span.kind == "SERVER":
        status = span.attributes.get("http.response.status_code", span.attributes.get("http.status_code"))
        remarks.append(f"status {status!s}")
    if span.name.startswith("transaction "):
        remarks.append(str(span.attributes.get("connleak.transaction.outcome")))
    if span.status == "ERROR":
        remarks.append("ERROR" + (f" {span.status_message.splitlines()[0]}" if span.status_message else ""))
    remarks += [f"link to {link.span_id[:6]}" for link in span.links]
    return " · ".join(remarks)
