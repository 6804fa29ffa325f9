"""Whatever happens in whatever order: nothing is lost, nothing is doubled, nothing is kept alive.

``CONNLEAK_EXAMPLES=5000`` plays more histories, and others in each run; ``CONNLEAK_SHRINK=1`` makes a history
that fails as short as it can be, which takes minutes: give ``--timeout=0`` with both.
"""

import gc
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.support.machine import Connections
from tests.support.stage import NEVER

MORE = os.environ.get("CONNLEAK_EXAMPLES")
HISTORIES = settings(
    derandomize=not MORE,  # the same histories in each run of CI
    database=None,
    deadline=None,
    max_examples=int(MORE or "250"),
    stateful_step_count=60,
    report_multiple_bugs=False,
    phases=[Phase.generate] + [Phase.shrink] * bool(os.environ.get("CONNLEAK_SHRINK")),
    suppress_health_check=[HealthCheck.too_slow],  # on a busy machine
)


@pytest.fixture
def collector_at_rest() -> Iterator[None]:
    """The garbage collector runs only when it is told to."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


class WithoutOverdue(Connections):
    """With a threshold that is never reached, nothing makes up for a report that was lost."""

    overdue_after = NEVER


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("collector_at_rest")
@pytest.mark.parametrize("machine", [Connections, WithoutOverdue])
def test_any_history(machine: type[Connections]) -> None:
    """The core and the model agree at each step of each history."""
    run_state_machine_as_test(machine, settings=HISTORIES)
