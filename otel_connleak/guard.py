"""The one place where our own mistakes end: logged once, counted, never raised into the application (L0).

DESIGN section 6, promise 1: no exception of ours reaches the application, from any hook.
"""

from __future__ import annotations

import logging
from collections import Counter

from otel_connleak.names import INSTRUMENTATION

_logger = logging.getLogger(INSTRUMENTATION)
_failures: Counter[str] = Counter()


def failed(hook: str) -> None:
    """Note that ``hook`` raised; call it in an ``except`` block. Thread-safe, never raises.

    The first failure of a hook is logged with its traceback, the later ones are only counted: a hook on the
    acquire path would otherwise fill the log of the host.
    """
    try:
        _failures[hook] += 1
        if _failures[hook] == 1:
            _logger.error(
                "otel-connleak failed in %s; the application is not affected, this hold may go unseen. "
                "Further failures of this hook are counted, not logged.",
                hook,
                exc_info=True,  # noqa: LOG014 -- called in an except block
            )
    except Exception:  # a broken logging handler must not break the host either
        pass


def failures() -> dict[str, int]:
    """How often each hook has failed, by the hook's name."""
    return dict(_failures)


def forget() -> None:
    """Count and log from the beginning again; for a new start of the instrumentation."""
    _failures.clear()
