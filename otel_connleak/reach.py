"""Can somebody still release it? Looks for who can reach a connection, when a claim is due (L1).

The question behind every kind of evidence (DESIGN section 4). It is answered top down, from what can still
run: first the local variables of all live activations (threads, asyncio tasks and what they wait for), then
the state of the application's modules. What only a traceback keeps alive is not reached: the activations of a
traceback are over. Never on the hot path; the interpreter lock is let go at least every millisecond.
"""

from __future__ import annotations

import asyncio
import enum
import gc
import sys
import time
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import chain
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple

from otel_connleak.frames import (
    Activation,
    bridged_frames,
    greenlet_frames,
    greenlets_as_threads,
    is_function,
    local_values,
    running_frames,
)
from otel_connleak.libraries import NO_CARRIERS
from otel_connleak.search import Search
from otel_connleak.value_stack import hides_values

_SLICE: Final = 0.0008
"""Seconds between two moments at which the interpreter lock is let go."""
_MOST: Final = 500_000
"""References looked at in one search; a larger heap is searched breadth first as far as this goes."""


type OnFound = Callable[[int, Activation], None]
"""Takes the identity of a connection, and a live activation that can reach it."""


class _Question(NamedTuple):
    """The arguments of `Reachability.who`."""

    targets: Mapping[int, tuple[int, CodeType | None]]
    loops: Iterable[asyncio.AbstractEventLoop]
    module_first: bool
    found_in: OnFound
    unseen: Collection[int]
    skip: tuple[int, ...]
    over: Collection[int]
    with_state: bool = True


class Reach(enum.Enum):
    """Who was found to reach a connection."""

    LIVE = "a live activation"
    MODULE = "module state"
    THREAD = "a thread's own state"
    NOBODY = "nobody"


def carries(value: Any, target: int, skip: Iterable[int] = (), most: int = 1_000) -> bool:
    """Whether ``value`` is, or keeps within a few steps, the object with the identity ``target``.

    Not through coroutines and generators that run now: the function that exits is one, and what its own
    variables refer to is not kept by whoever keeps its task.
    Never through objects whose identity is in ``skip``. Bounded to ``most`` references: it runs in the
    application's thread, when a function exits that still holds.
    """
    if value is None:
        return False
    search = Search({target}, most, skip=skip, running=False, not_in=NO_CARRIERS)
    return bool(search.run([(None, [value])]))


class Reachability:
    """Answers who can reach a connection. For one background thread, or at exit.

    Args:
        is_application_module: tells the application's own modules by their name and their namespace.
        sleep: lets the interpreter lock go.
    """

    def __init__(
        self,
        is_application_module: Callable[[str, Mapping[str, Any]], bool],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._is_application_module = is_application_module
        self._sleep = sleep

    def who(
        self,
        targets: Mapping[int, tuple[int, CodeType | None]],
        loops: Iterable[asyncio.AbstractEventLoop] = (),
        *,
        module_first: bool = False,
        found_in: OnFound = lambda _target, _activation: None,
        unseen: Collection[int] = (),
        skip: Iterable[int] = (),
        over: Collection[int] = (),
    ) -> dict[int, Reach]:
        """Who can reach each of these connections.

        Args:
            targets: by the ``id()`` of a connection that is alive, its owner: the identity of the frame
                object, or 0, and the code. An owner that runs may keep the connection where no search can see
                it: on the value stack of a ``with`` without ``as``.
            loops: event loops whose tasks are looked at.
            module_first: what both a live activation and a module can reach counts as module state.
            found_in: told of a connection that a live activation can reach, and of that activation. It may
                be over by then.
            unseen: the targets that are kept where no search looks: their owners need none while they live.
            skip: identities of objects that are not followed: of pools that refer to what they hand out.
            over: the targets whose thread, task or request is over: what is kept for it nobody releases.
        """
        if not targets:
            return {}
        question = _Question(targets, loops, module_first, found_in, unseen, tuple(skip), over)
        answers = self._ask(question)
        # The application goes on while we search, and may carry a connection from where we have not looked
        # yet to where we have. So activations are asked twice before it is said that there is nobody.
        nobody = {key: owner for key, owner in targets.items() if answers[key] is Reach.NOBODY}
        again = question._replace(targets=nobody, with_state=False)
        return answers | self._ask(again) if nobody else answers

    def _ask(self, question: _Question) -> dict[int, Reach]:
        targets, loops, module_first, found_in, unseen, skip, over, with_state = question
        pause = self._pauses()
        coroutines = _live_coroutines(loops)
        greenlets = greenlets_as_threads(pause)

        def frames() -> Iterator[FrameType]:
            return chain(running_frames(), *map(greenlet_frames, greenlets))

        hidden = self._hidden(targets, chain(frames(), bridged_frames(coroutines)), unseen, pause)
        # The body of a module that runs is no activation of its own: its variables are the module's state.
        running = {target for target in hidden if is_function(targets[target][1])}
        search = Search(set(targets), _MOST, pause, skip)
        activations = chain(_coroutine_roots(coroutines), _roots(frames()), [(None, _contexts(loops))])
        state = [(None, self._module_state(pause))] if with_state else []
        if module_first:
            module = search.run(state)
            live = search.run(activations)
        else:
            search.targets -= running
            live = search.run(activations)
            module = search.run(state)
        scoped = search.run([(None, gc.get_referents(*search.scopes))])
        own = search.run([(None, gc.get_referents(*search.thread_locals))])
        search.clear()
        for target, activation in live.items():
            if activation is not None:
                found_in(target, activation)
        answers = dict.fromkeys(targets, Reach.NOBODY)
        answers |= dict.fromkeys(chain(hidden, live, scoped.keys() - over), Reach.LIVE)
        return answers | dict.fromkeys(own, Reach.THREAD) | dict.fromkeys(module, Reach.MODULE)

    def _hidden(
        self,
        targets: Mapping[int, tuple[int, CodeType | None]],
        frames: Iterable[FrameType],
        unseen: Collection[int],
        pause: Callable[[], None],
    ) -> set[int]:
        """The connections whose owners run and may keep them where no search can see it."""
        owners = {owner for owner, code in targets.values() if code is not None}
        in_context = {targets[target][0] for target in unseen if target in targets}
        hiding: dict[int, CodeType] = {}
        for frame in frames:
            if id(frame) in in_context or (id(frame) in owners and hides_values(frame)):
                hiding[id(frame)] = frame.f_code
            pause()
        return {target for target, (owner, code) in targets.items() if code and hiding.get(owner) is code}

    def _module_state(self, pause: Callable[[], None]) -> Iterator[Any]:
        """The values in the namespaces of the application's modules and of their classes."""
        modules: list[tuple[str, Any]] = list(sys.modules.items())  # not everything in there is a module
        for name, module in modules:
            pause()
            if not issubclass(type(module), types.ModuleType):
                continue
            # Asking the module itself would import it, if it is a lazy one.
            namespace: dict[str, Any] = object.__getattribute__(module, "__dict__")
            if self._is_application_module(name, namespace):
                values = list(namespace.values())
                yield from values
                for value in values:
                    # A class attribute is module state as well: a class is a singleton that a module keeps.
                    if issubclass(type(value), type):
                        attributes = type.__getattribute__(value, "__dict__")
                        if attributes.get("__module__") == name:
                            yield from list(attributes.values())

    def _pauses(self) -> Callable[[], None]:
        started = time.perf_counter()

        def pause() -> None:
            nonlocal started
            if time.perf_counter() - started > _SLICE:
                self._sleep(0.0001)
                started = time.perf_counter()

        return pause


def _roots(frames: Iterable[FrameType]) -> Iterator[tuple[Activation, list[Any]]]:
    for frame in frames:
        yield (id(frame), frame.f_code), local_values(frame)


def _coroutine_roots(coroutines: Iterable[Any]) -> Iterator[tuple[Activation | None, list[Any]]]:
    for coroutine in coroutines:
        frame = getattr(coroutine, "cr_frame", None)
        yield ((id(frame), frame.f_code) if frame is not None else None), [coroutine]


def _contexts(loops: Iterable[asyncio.AbstractEventLoop]) -> Iterator[Any]:
    """The context variables of the unfinished tasks."""
    for loop in loops:
        try:
            for task in asyncio.all_tasks(loop):
                yield from task.get_context().values()
        except (AttributeError, RuntimeError):  # a task of another kind; the set of tasks changed under us
            continue


def _live_coroutines(loops: Iterable[asyncio.AbstractEventLoop]) -> list[Any]:
    """The coroutines of the unfinished tasks; their frames and what they await are reached from them."""
    coroutines: list[Any] = []
    for loop in loops:
        try:
            coroutines += [task.get_coro() for task in asyncio.all_tasks(loop)]
        except RuntimeError:  # the set of tasks changed under us, several times over
            continue
    return coroutines
