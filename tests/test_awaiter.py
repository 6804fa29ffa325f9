"""Who awaits the result of a function that runs in a thread pool or as a task of its own."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from otel_connleak.awaiter import awaiting_frames

type Names = list[str]


def in_thread() -> Names:
    """The functions of this file that await this one."""
    return names(sys._getframe())


async def in_task() -> Names:
    """The same for a coroutine."""
    return names(sys._getframe())


def names(frame: object) -> Names:
    """Whose frames are found, of this file."""
    return [
        found.f_code.co_name
        for found in awaiting_frames(frame)  # type: ignore[arg-type] # it is a frame
        if found.f_code.co_filename == __file__
    ]


async def to_thread() -> Names:
    """A thread is started for it."""
    return await asyncio.to_thread(in_thread)


async def to_thread_that_waits() -> Names:
    """A thread is there."""
    await asyncio.to_thread(int)
    return await asyncio.to_thread(in_thread)


async def executor() -> Names:
    """A thread pool of its own."""
    with ThreadPoolExecutor(1) as threads:
        return await asyncio.get_running_loop().run_in_executor(threads, in_thread)


async def to_thread_with_timeout() -> Names:
    """A function in between that only waits."""
    return await asyncio.wait_for(asyncio.to_thread(in_thread), 10)


async def task() -> Names:
    """A task."""
    return await asyncio.create_task(in_task())


async def shielded() -> Names:
    """A task that is shielded from cancellation."""
    return await asyncio.shield(in_task())


async def gathered() -> Names:
    """One of several."""
    found, _ = await asyncio.gather(in_task(), asyncio.sleep(0))
    return found


async def gathered_threads() -> Names:
    """One of several, each in a thread: a task in between passes the result on."""
    await asyncio.to_thread(int)
    found, _ = await asyncio.gather(asyncio.to_thread(in_thread), asyncio.sleep(0))
    return found


async def first_of_several() -> Names:
    """The first that is done."""
    done, _ = await asyncio.wait([asyncio.create_task(in_task())])
    return done.pop().result()


AWAITS: list[Callable[[], Awaitable[Names]]] = [
    to_thread,
    to_thread_that_waits,
    executor,
    to_thread_with_timeout,
    task,
    shielded,
    gathered,
    gathered_threads,
    first_of_several,
]


@pytest.mark.parametrize("function", AWAITS)
def test_found(function: Callable[[], Awaitable[Names]]) -> None:
    """The coroutine that awaits it comes first, before those that await that one."""

    async def outer() -> Names:
        return await function()

    found = asyncio.run(outer())
    assert found[:2] == [getattr(function, "__name__", ""), "outer"]


def test_nobody() -> None:
    """A function with callers of its own, or whose result nobody awaits."""

    async def not_awaited() -> Names:
        created = asyncio.create_task(in_task())
        await asyncio.sleep(0.01)
        return created.result()

    assert in_thread() == []
    assert asyncio.run(not_awaited()) == []
    assert asyncio.run(in_task()) == []
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(in_thread).result() == []
