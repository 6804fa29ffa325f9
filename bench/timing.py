"""Times short rounds of different work in turn, so that a slow moment of the machine hits all alike."""

import asyncio
import gc
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field

ROUNDS = 100
"""Rounds of each kind of work; the first ones warm up and do not count."""
WARM_UP = 10
CYCLES = 150
"""Cycles in one round: short enough to fit between two disturbances of a busy machine."""

type Work = Callable[[int], float]
"""Does a number of cycles, and returns the seconds that one of them took."""


@dataclass
class Series:
    """The seconds of one cycle of one kind of work, one entry a round."""

    seconds: list[float] = field(default_factory=list)

    @property
    def typical(self) -> float:
        """The median, in seconds for one cycle; without the warm-up."""
        return statistics.median(self.seconds[WARM_UP:])

    @property
    def undisturbed(self) -> float:
        """The same of the rounds that nothing has disturbed: a tenth of them was quicker than this."""
        return statistics.quantiles(self.seconds[WARM_UP:], n=10)[0]


@dataclass(frozen=True)
class Added:
    """What the instrumentation adds to a cycle: in seconds, and as a multiple of a unit of work."""

    seconds: float
    ratio: float


def repeat(work: Callable[[], object]) -> Work:
    """Work that calls a function again and again."""

    def cycles(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            work()
        return (time.perf_counter() - start) / count

    return cycles


def repeat_async(loop: asyncio.AbstractEventLoop, work: Callable[[], Awaitable[object]]) -> Work:
    """Work that awaits a coroutine function again and again, in one task of a loop that is not running."""

    async def cycles(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            await work()
        return (time.perf_counter() - start) / count

    return lambda count: loop.run_until_complete(cycles(count))


def repeat_with[Resource](
    resource: Callable[[], AbstractContextManager[Resource]], work: Callable[[Resource], object]
) -> Work:
    """Work that is done again and again with something that is held meanwhile.

    Not timed are the getting of that, and what is done with it first: in a database, it begins a transaction.
    """

    def cycles(count: int) -> float:
        with resource() as held:
            work(held)
            start = time.perf_counter()
            for _ in range(count):
                work(held)
            return (time.perf_counter() - start) / count

    return cycles


def repeat_with_async[Resource](
    loop: asyncio.AbstractEventLoop,
    resource: Callable[[], AbstractAsyncContextManager[Resource]],
    work: Callable[[Resource], Awaitable[object]],
) -> Work:
    """The same with a coroutine function, in one task of a loop that is not running."""

    async def cycles(count: int) -> float:
        async with resource() as held:
            await work(held)
            start = time.perf_counter()
            for _ in range(count):
                await work(held)
            return (time.perf_counter() - start) / count

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


def added(series: dict[str, Series], instrumented: str, plain: str, unit: str) -> Added:
    """What the instrumentation adds to a cycle.

    The median over rounds: each compares only what ran within a few milliseconds of each other.
    """
    names = instrumented, plain, unit
    rounds = list(zip(*(series[name].seconds for name in names), strict=True))[WARM_UP:]
    return Added(
        statistics.median([on - off for on, off, _ in rounds]),
        statistics.median([(on - off) / one for on, off, one in rounds]),
    )


def added_undisturbed(series: dict[str, Series], instrumented: str, plain: str, unit: str) -> Added:
    """The same for work that waits for another process, which a third one that is busy makes twice as long.

    It does that in many rounds, not in all: what is compared is how long they take where it does not.
    """
    on, off, one = (series[name].undisturbed for name in (instrumented, plain, unit))
    return Added(on - off, (on - off) / one)


def _time(work: Work, between: Callable[[], object]) -> float:
    seconds = work(CYCLES)
    between()
    return seconds
