# ruff: noqa: INP001 - this folder is on the module search path of the runs
"""Switches us on in every process of a run, before anything else is imported, if the run is one with us."""

import os

if "UPSTREAM_SEEN" in os.environ:
    import atexit
    import json
    import logging
    import time
    from pathlib import Path
    from typing import ClassVar

    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    from otel_connleak import ConnLeakInstrumentor, function_stats, leaks

    class Errors(logging.Handler):
        """Keeps the errors with their tracebacks, and lets nothing through.

        Some tests look at what a program writes to its standard error, and leak on purpose.
        """

        said: ClassVar[list[str]] = []

        def emit(self, record: logging.LogRecord) -> None:
            """Keep an error."""
            if record.levelno >= logging.ERROR:
                self.said.append(logging.Formatter().format(record))

    logging.getLogger("otel_connleak").addHandler(Errors())
    logging.getLogger("otel_connleak").propagate = False
    # So quick that leaks are reported while the tests run: that must not change their outcome either.
    trace.set_tracer_provider(TracerProvider())
    ConnLeakInstrumentor().instrument(grace=0.1, overdue_after=0.5)

    def say_what_was_seen() -> None:
        """Write down what was seen, and which hooks have failed."""
        stats = function_stats()
        said = {
            "holds": sum(each.acquired for each in stats),
            "leaks": [f"{each.function} ({each.certainty}, {', '.join(each.evidence)})" for each in leaks()],
            "errors": Errors.said,
        }
        file = Path(os.environ["UPSTREAM_SEEN"], f"{os.getpid()}-{time.monotonic_ns()}.json")
        file.write_text(json.dumps(said), encoding="utf-8")

    atexit.register(say_what_was_seen)
