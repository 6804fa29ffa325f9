"""The benchmark of driver calls times what it says: calls on a connection that is held, hooks and all."""

import os
from contextlib import ExitStack

import pytest

from bench import application
from bench.__main__ import CALL, CALLS, Result
from bench.calls import AnsweredCursor, answer_at_once, calls, held, one_processor, open_pool
from bench.worker import instrumented
from otel_connleak.api import open_holds


@pytest.mark.parametrize("answered", [True, False])
def test_hooks_see_the_calls(postgres: str, answered: bool) -> None:
    """Each call that is timed counts as one of the hold's, whether or not its answer is taken from memory."""
    factory = {"cursor_factory": AnsweredCursor} if answered else {}
    with ExitStack() as stack:
        pool = open_pool(stack, postgres, **factory)
        if answered:
            answer_at_once(pool)
        with instrumented(), held(pool) as connection:
            application.execute(connection)
            before = open_holds()[0].statements
            for _ in range(3):
                application.execute(connection)

            assert open_holds()[0].statements == before + 3
            assert connection.info.transaction_status.name == "INTRANS"


def test_answer_that_comes_from_the_server(postgres: str) -> None:
    """The benchmark says so when it would time the server by mistake."""
    with ExitStack() as stack:
        pool = open_pool(stack, postgres)
        with pytest.raises(RuntimeError, match="_maybe_prepare_gen"):
            answer_at_once(pool)


def test_every_call_can_be_timed(postgres: str) -> None:
    """All that is timed without an event loop works, and takes some time."""
    with ExitStack() as stack:
        work = calls(stack, postgres)

        assert all(cycles(1) > 0 for cycles in work.values())
        assert CALL in work


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(0.15, "goal met"), (0.16, "within the limit"), (0.21, "OVER THE LIMIT")]
)
def test_verdict(ratio: float, verdict: str) -> None:
    """The limit itself is not over the limit."""
    assert Result(CALLS[0], {CALL: ratio}, {}, {}).verdict == verdict


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no such thing")
def test_one_processor() -> None:
    """The process may use its other processors again afterwards."""
    before = os.sched_getaffinity(0)
    with one_processor():
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before
