"""How many values an activation keeps where no variable names them, on every supported interpreter."""

import asyncio
import contextlib
import os
import sys
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

from otel_connleak import value_stack
from otel_connleak.value_stack import hides_values


def ask(*_: object) -> bool:
    """Whether the caller hides anything while it calls this."""
    frame: FrameType = sys._getframe(1)
    return hides_values(frame)


def plain() -> bool:
    """Nothing."""
    return ask()


def arguments() -> bool:
    """Arguments of the call itself are the callee's."""
    return ask(*[1, 2])


def behind_everything() -> bool:
    """Blocks and loops that are over have left nothing."""
    for _ in [1]:
        pass
    with contextlib.nullcontext():
        pass
    try:
        raise ValueError
    except ValueError:
        pass
    return ask()


def in_try() -> bool:
    """A ``try`` that nothing was raised in has nothing on the stack."""
    try:
        return ask()
    finally:
        pass


def in_while() -> bool:
    """A ``while`` neither."""
    while True:
        answer = ask()
        if answer is not None:
            return answer


def in_with() -> bool:
    """The way to leave the block."""
    with contextlib.nullcontext():
        return ask()


def in_for() -> bool:
    """The iterator."""
    answers = []
    for _ in [1]:
        answers.append(ask())  # noqa: PERF401 -- a comprehension is another case
    return answers[0]


def in_comprehension() -> bool:
    """Its list and its iterator."""
    return all([ask() for _ in [1]])  # noqa: C419 -- it is the list that is hidden


def in_handler() -> bool:
    """The exception that is handled."""
    try:
        raise ValueError
    except ValueError:
        return ask()


def beside_another_argument() -> bool:
    """What was computed before it for the same call."""
    return max(False, ask())


async def coroutine() -> bool:
    """Nothing, in a coroutine whose blocks are over."""
    async with contextlib.AsyncExitStack():
        pass
    async for _ in numbers():
        pass
    await asyncio.sleep(0)
    return ask()


async def coroutine_in_block() -> bool:
    """The way to leave the block."""
    async with contextlib.AsyncExitStack():
        return ask()


async def numbers() -> AsyncIterator[int]:
    """One number."""
    yield 1


def generator() -> Iterator[bool]:
    """Nothing, in a generator."""
    yield ask()


NOTHING: list[Callable[[], Any]] = [plain, arguments, behind_everything, in_try, in_while, coroutine]
SOMETHING: list[Callable[[], Any]] = [
    in_with,
    in_for,
    in_comprehension,
    in_handler,
    beside_another_argument,
    coroutine_in_block,
]


def answer_of(function: Callable[[], Any]) -> bool:
    """What a function or coroutine function answers."""
    answer = asyncio.run(function()) if asyncio.iscoroutinefunction(function) else function()
    return bool(answer)


@pytest.mark.parametrize("function", NOTHING)
def test_nothing_hidden(function: Callable[[], Any]) -> None:
    """A search through the variables sees everything that the function has."""
    assert answer_of(function) is False


@pytest.mark.parametrize("function", SOMETHING)
def test_something_hidden(function: Callable[[], Any]) -> None:
    """A search cannot see what lies on the value stack."""
    assert answer_of(function) is True


def test_generator() -> None:
    """A generator's first instruction is special, and is allowed for."""
    assert next(generator()) is False


def test_unknown_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the code cannot be read the answer is the careful one."""

    def fail(_code: CodeType) -> list[Any]:
        raise AttributeError

    monkeypatch.setattr(value_stack, "_handlers", fail)
    value_stack._below.cache_clear()
    assert plain() is True
    value_stack._below.cache_clear()


def codes(code: CodeType) -> Iterator[CodeType]:
    """A code object and all those inside of it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes(constant)


def test_whole_standard_library() -> None:
    """In 5,000 functions of the standard library every depth is one that the compiler allows for."""
    folder = Path(os.__file__).parent
    wrong: list[str] = []
    seen = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        for file in [*sorted(folder.glob("*.py"))[:120], *sorted((folder / "asyncio").glob("*.py"))]:
            for code in codes(compile(file.read_bytes(), str(file), "exec")):
                if not set(value_stack._below(code).values()) <= {*range(code.co_stacksize + 1)}:
                    wrong.append(f"{file.name} {code.co_qualname}")
                seen += 1
    assert wrong == []
    assert seen > 5_000
