"""Times short rounds of different work in turn, so that a slow moment of the machine hits all alike."""

import asyncio
import gc
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

ROUNDS = 100
"""Rounds of each kind of work; the first ones warm up and do not count."""
WARM_UP = 10
CYCLES = 150
"""Cycles in one round: short enough to fit between two disturbances of a busy machine."""

type Work = Callable[[int], None]
"""Does a number of cycles."""


@dataclass
class Series:
    """The seconds of one cycle of one kind of work, one entry a round."""

    seconds: list[float] = field(default_factory=list)

    @property
    def typical(self) -> float:
        """The median, in seconds for one cycle; without the warm-up."""
        return statistics.median(self.seconds[WARM_UP:])


def repeat(work: Callable[[], object]) -> Work:
    """Work that calls a function again and again."""

    def cycles(count: int) -> None:
        for _ in range(count):
            work()

    return cycles


def repeat_async(loop: asyncio.AbstractEventLoop, work: Callable[[], Awaitable[object]]) -> Work:
    """Work that awaits a coroutine function again and again, in one task of a loop that is not running."""

    async def cycles(count: int) -> None:
        for _ in range(count):
            await work()

    return lambda count: loop.run_until_complete(cycles(count))


def time_in_turn(
    plain: dict[str, Work],
    instrumented: dict[str, Work],
    instrumentation: Callable[[], AbstractContextManager[object]],
    between: Callable[[], object],
) -> dict[str, Series]:
    """Time all work in alternating rounds.

    Args:
        plain: work done without the instrumentation, by name.
        instrumented: work done with it, by other names.
        instrumentation: switches it on for a ``with`` block.
        between: called after each kind of work, untimed; for example to empty a queue.

    Returns:
        The times by name; the rounds of all of them belong together by their index.
    """
    series = {name: Series() for name in [*plain, *instrumented]}
    gc.collect()
    gc.freeze()
    for _ in range(ROUNDS):
        for name, work in plain.items():
            series[name].seconds.append(_time(work, between))
        with instrumentation():
            for name, work in instrumented.items():
                work(3)  # The first acquire of a call site is dearer; it is paid once.
                series[name].seconds.append(_time(work, between))
    return series


def added(series: dict[str, Series], instrumented: str, plain: str, unit: str) -> float:
    """What the instrumentation adds to a cycle, as a multiple of a unit of work.

    The median over rounds: each compares only what ran within a few milliseconds of each other.
    """
    rounds = zip(series[instrumented].seconds, series[plain].seconds, series[unit].seconds, strict=True)
    return statistics.median([(on - off) / one for on, off, one in list(rounds)[WARM_UP:]])


def _time(work: Work, between: Callable[[], object]) -> float:
    start = time.perf_counter()
    work(CYCLES)
    seconds = (time.perf_counter() - start) / CYCLES
    between()
    return seconds
