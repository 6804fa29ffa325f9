"""Can somebody still release it? Looks for who can reach a connection, when a claim is due (L1).

The question behind every kind of evidence (DESIGN section 4). It is answered top down, from what can still
run: first the local variables of all live activations (threads, asyncio tasks and what they wait for), then
the state of the application's modules. What only a traceback keeps alive is not reached: the activations of a
traceback are over. Never on the hot path; the interpreter lock is let go at least every millisecond.
"""

from __future__ import annotations

import asyncio
import ctypes
import enum
import gc
import inspect
import sys
import time
import types
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from itertools import chain
from types import CodeType, FrameType
from typing import Any, Final

from otel_connleak.search import Search

_SLICE: Final = 0.0005
"""Seconds between two moments at which the interpreter lock is let go."""
_MOST: Final = 500_000
"""References looked at in one search; a larger heap is searched breadth first as far as this goes."""
_OURS: Final = __name__.partition(".")[0] + "."


class Reach(enum.Enum):
    """Who was found to reach a connection."""

    LIVE = "a live activation"
    MODULE = "module state"
    THREAD = "a thread's own state"
    NOBODY = "nobody"


def _frame_variable() -> Callable[[FrameType, str], Any]:
    """CPython's ``PyFrame_GetVar`` (3.12 and newer), which reads one variable of any frame.

    Reading ``frame.f_locals`` of somebody else's frame would on 3.12 store a copy of all locals in the frame,
    and so keep a connection alive that the function has let go (PEP 667 ended this in 3.13).
    """
    get = ctypes.pythonapi.PyFrame_GetVar
    get.restype = ctypes.py_object
    get.argtypes = [ctypes.py_object, ctypes.py_object]
    return get


try:
    _get_variable: Callable[[FrameType, str], Any] | None = _frame_variable()
except (AttributeError, OSError):  # not CPython, or built without a dynamic symbol table
    _get_variable = None


def local_values(frame: FrameType, only: Container[str] | None = None) -> list[Any]:
    """The values of a frame's local variables, also of one that runs in another thread; without side effect.

    Args:
        frame: any frame.
        only: names of the variables that are wanted, by default all.
    """
    code: CodeType = frame.f_code
    if not _is_function(code) or _get_variable is None:
        return list(frame.f_locals.values()) if frame.f_locals is not frame.f_globals else []
    values = []
    for name in (*code.co_varnames, *code.co_cellvars, *code.co_freevars):
        if only is not None and name not in only:
            continue
        try:
            values.append(_get_variable(frame, name))
        except NameError:  # not bound at the moment
            continue
    return values


def carries(value: Any, target: int, most: int = 1_000) -> bool:
    """Whether ``value`` is, or keeps within a few steps, the object with the identity ``target``.

    Bounded to ``most`` references: it runs in the application's thread, when a function exits that still
    holds.
    """
    return value is not None and bool(Search({target}, most).run([value]))


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
    ) -> dict[int, Reach]:
        """Who can reach each of these connections.

        Args:
            targets: by the ``id()`` of a connection that is alive, its owner: the identity of the frame
                object, or 0, and the code. An owner that still runs, or waits, needs no search: it may keep
                the connection where no search can see it, on the value stack of a ``with`` without ``as``.
            loops: event loops whose tasks are looked at.
            module_first: what both a live activation and a module can reach counts as module state.
        """
        answers = self._ask(targets, loops, module_first)
        # The application goes on while we search, and may carry a connection from where we have not looked
        # yet to where we have. So "nobody" is asked twice.
        nobody = {key: owner for key, owner in targets.items() if answers[key] is Reach.NOBODY}
        return answers | self._ask(nobody, loops, module_first) if nobody else answers

    def _ask(
        self,
        targets: Mapping[int, tuple[int, CodeType | None]],
        loops: Iterable[asyncio.AbstractEventLoop],
        module_first: bool,
    ) -> dict[int, Reach]:
        pause = self._pauses()
        coroutines = _live_coroutines(loops)
        living: dict[int, CodeType] = {}
        for frame in chain(_live_frames(), _suspended_frames(coroutines)):
            living[id(frame)] = frame.f_code
            pause()
        owned = {target for target, (owner, code) in targets.items() if code and living.get(owner) is code}
        # The body of a module that runs is no activation of its own: its variables are the module's state.
        running = {target for target in owned if _is_function(targets[target][1])}
        search = Search(set(targets), _MOST, pause)
        values = chain(
            coroutines, _contexts(loops), (value for frame in _live_frames() for value in local_values(frame))
        )
        if module_first:
            module = search.run(self._module_state(pause))
            live = search.run(values)
        else:
            search.targets -= running
            live = search.run(values)
            module = search.run(self._module_state(pause))
        own = search.run(gc.get_referents(*search.thread_locals))
        search.clear()
        answers = dict.fromkeys(targets, Reach.NOBODY)
        answers |= dict.fromkeys(owned | live, Reach.LIVE)
        return answers | dict.fromkeys(own, Reach.THREAD) | dict.fromkeys(module, Reach.MODULE)

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


def _is_function(code: CodeType | None) -> bool:
    return code is not None and bool(code.co_flags & inspect.CO_OPTIMIZED)


def _live_frames() -> Iterator[FrameType]:
    """The frames of all threads, innermost first in each, without our own."""
    tops = sys._current_frames()
    while tops:
        frame: FrameType | None = tops.popitem()[1]
        while frame is not None:
            if not str(frame.f_globals.get("__name__")).startswith(_OURS):
                yield frame
            frame = frame.f_back


def _suspended_frames(coroutines: Iterable[Any]) -> Iterator[FrameType]:
    """The frames of coroutines that wait, and of those that they wait for."""
    for coroutine in coroutines:
        waiting = coroutine
        while waiting is not None:
            frame = getattr(waiting, "cr_frame", None) or getattr(waiting, "gi_frame", None)
            if frame is not None:
                yield frame
            waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "gi_yieldfrom", None)


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
