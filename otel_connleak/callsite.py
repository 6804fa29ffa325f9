"""Who is asking: from the frame of an acquire to the function that is answerable for the release (L1).

The owner is the first application frame: not the standard library, a driver, a pool, an ORM, a web framework
or instrumentation. A generator-based context manager, ``__enter__``, ``__aenter__`` and ``__init__`` acquire
for their caller (DESIGN section 4, "Ownership moves"). Everything that is constant for a call site is
computed once.
"""

from __future__ import annotations

import inspect
import os
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any, Final

from otel_connleak.claim import StackFrame
from otel_connleak.config import Settings
from otel_connleak.frames import bridged_to, line_at, stack_of
from otel_connleak.hold import CallSite, Origin
from otel_connleak.libraries import ACQUIRES_FOR_CALLER, EVENT_LOOPS, FRAMEWORKS, INFRASTRUCTURE

_APPLICATION: Final = 1
_REPOSITORY: Final = 2
_FRAMEWORK: Final = 3
_LIBRARY: Final = 4
_BOUNDARY: Final = 5
_CONTEXTLIB: Final = 6

_GENERATOR: Final = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
_MOST_SITES: Final = 10_000
"""Call sites remembered; code that is generated again and again must not grow the process."""

_STDLIB_FOLDERS: Final = tuple(
    {os.path.realpath(sysconfig.get_path(name)) + os.sep for name in ("stdlib", "platstdlib")}
)
_SCRIPTS_FOLDER: Final = Path(sysconfig.get_path("scripts")).resolve()


def module_of(frame: FrameType) -> str:
    """The name of the module that a frame runs in; ``python -m package.module`` counts as that module."""
    namespace = frame.f_globals
    name = str(namespace.get("__name__") or "")
    if name == "__main__":
        spec = namespace.get("__spec__")
        name = str(getattr(spec, "name", None) or name).removesuffix(".__main__") or name
    return name


def _in_standard_library(name: str, file: str | None) -> bool:
    if name.partition(".")[0] not in sys.stdlib_module_names:
        return False
    # An application may have a package with the name of a standard module; only the folder tells. Frozen
    # modules have no file.
    if not file or file.startswith("<"):
        return True
    path = os.path.realpath(file)
    return path.startswith(_STDLIB_FOLDERS) and "site-packages" not in path


class CallSites:
    """Finds and remembers call sites. Thread-safe: its caches are only ever filled with equal values."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._adapted: set[str] = set()
        self._verdicts: dict[str | None, int] = {}
        self._files: dict[str, bool] = {}
        self._sites: dict[tuple[int, int], tuple[CodeType, CallSite, bool]] = {}

    def locate(self, frame: FrameType | None) -> Origin:
        """The call site and owner of an acquire.

        Args:
            frame: the frame that called our hook, or any frame of ours above it.

        Returns:
            The origin. Where only library frames are on the stack, the nearest frame of a framework, or else
            the nearest of all, gives the name, and no activation is the owner.
        """
        verdicts = self._verdicts
        walked = frame
        while walked is not None:
            verdict = verdicts.get(walked.f_globals.get("__name__")) or self._judge(walked)
            if verdict <= _REPOSITORY:
                # The hot path: a plain application frame that has acquired here before.
                code = walked.f_code
                found = self._sites.get((id(code), walked.f_lasti))
                if found is not None and found[2]:
                    return found[1], id(walked), code, stack_of(walked)
                break
            if verdict == _BOUNDARY:
                break
            walked = walked.f_back
        owner = self._find_owner(walked)
        return self.origin_at(owner) if owner is not None else self._nobody(frame)

    def origin_at(self, owner: FrameType) -> Origin:
        """The origin whose owner is this very activation, at the line where it is now."""
        code = owner.f_code
        found = self._sites.get((id(code), owner.f_lasti))
        site = found[1] if found is not None else self._remember(owner)
        return site, id(owner), code, stack_of(owner)

    def add_library(self, module: str) -> None:
        """A module that has an adapter, and what is below it, is never the owner, as the known ones are."""
        if module.partition(".")[0] not in INFRASTRUCTURE | FRAMEWORKS:
            self._adapted.add(module)
            self._verdicts.clear()

    def forget(self) -> None:
        """Forget the call sites; they are found anew, with empty totals."""
        self._sites.clear()

    def _find_owner(self, start: FrameType | None) -> FrameType | None:
        """The application frame that owns; a helper that acquires for its caller if there is no other."""
        first: FrameType | None = None
        helper: FrameType | None = None
        for frame in _with_callers(start):
            verdict = self._verdicts.get(frame.f_globals.get("__name__")) or self._judge(frame)
            if verdict == _BOUNDARY:
                break
            if verdict <= _REPOSITORY:
                if self._acquires_for_caller(frame):
                    helper = helper or frame
                elif verdict == _REPOSITORY or not self._settings.repository:
                    return frame
                else:
                    first = first or frame
        return first or helper

    def _acquires_for_caller(self, frame: FrameType) -> bool:
        code = frame.f_code
        if code.co_name in ACQUIRES_FOR_CALLER:
            return True
        return bool(code.co_flags & _GENERATOR) and self._driven_by_contextlib(frame)

    def next_owner(self, start: FrameType | None) -> FrameType | None:
        """The nearest application frame from ``start`` upwards within the same task, or None."""
        return next(self.application_frames(start), None)

    def application_frames(self, start: FrameType | None) -> Iterator[FrameType]:
        """The application's frames from ``start`` upwards within the same task."""
        for frame in _with_callers(start):
            verdict = self._verdicts.get(frame.f_globals.get("__name__")) or self._judge(frame)
            if verdict <= _REPOSITORY:
                yield frame
            elif verdict == _BOUNDARY:
                return

    def is_application(self, frame: FrameType) -> bool:
        """Whether a frame runs the application's own code."""
        return (self._verdicts.get(frame.f_globals.get("__name__")) or self._judge(frame)) <= _REPOSITORY

    def is_application_module(self, name: str, namespace: Mapping[str, Any]) -> bool:
        """Whether a loaded module is the application's own code."""
        verdict = self._verdicts.get(name)
        if verdict is None:
            verdict = self._judge_name(name, namespace.get("__file__"))
            if name != "__main__" and len(self._verdicts) < _MOST_SITES:
                self._verdicts[name] = verdict
        return verdict <= _REPOSITORY

    def frames(self, stack: tuple[Any, ...]) -> Iterator[StackFrame]:
        """The application frames of a remembered stack, nearest first. For reports: not for the hot path."""
        for code, offset in zip(stack[::2], stack[1::2], strict=True):
            if self._is_application_file(code.co_filename):
                yield StackFrame(code.co_qualname, code.co_filename, line_at(code, offset))

    def _driven_by_contextlib(self, frame: FrameType) -> bool:
        """Whether a generator was resumed by ``contextlib``: then it is a context manager's body."""
        back = frame.f_back
        if back is None:
            return False
        name = back.f_globals.get("__name__")
        return (self._verdicts.get(name) or self._judge(back)) == _CONTEXTLIB

    def _judge(self, frame: FrameType) -> int:
        key = frame.f_globals.get("__name__")
        name = module_of(frame)
        verdict = self._judge_name(name, frame.f_globals.get("__file__"))
        if key == "__main__" and name == key and verdict <= _REPOSITORY:
            # A console script (``bin/gunicorn``) is its library's, not the application's.
            file = frame.f_globals.get("__file__")
            if file and Path(file).resolve().parent == _SCRIPTS_FOLDER:
                verdict = _LIBRARY
        if len(self._verdicts) < _MOST_SITES:
            self._verdicts[key] = verdict
        return verdict

    def _judge_name(self, name: str, file: Any) -> int:
        if name == "contextlib":
            return _CONTEXTLIB
        top = name.partition(".")[0]
        if name in EVENT_LOOPS:
            return _BOUNDARY
        if top in INFRASTRUCTURE or self._settings.library_modules.match(name, *_parents(name)):
            return _LIBRARY
        if not self._adapted.isdisjoint((name, *_parents(name))):
            return _LIBRARY
        if self._in_repository(name):
            return _REPOSITORY
        if top in FRAMEWORKS:
            return _FRAMEWORK
        if _in_standard_library(name, str(file) if file else None):
            return _LIBRARY
        return _APPLICATION

    def _in_repository(self, name: str) -> bool:
        # ``shop.repositories.*`` means the module ``shop.repositories`` too: its functions are called so.
        return self._settings.repository.match(name, name + ".")

    def _nobody(self, frame: FrameType | None) -> Origin:
        """The origin where all frames are library frames."""
        nearest = frame
        while frame is not None:
            verdict = self._verdicts.get(frame.f_globals.get("__name__")) or self._judge(frame)
            if verdict == _FRAMEWORK:
                nearest = frame
                break
            if verdict == _BOUNDARY:
                break
            frame = frame.f_back
        if nearest is None:
            return CallSite("unknown", "unknown", "unknown", 0), 0, None, ()
        site, _, _, stack = self.origin_at(nearest)
        return site, 0, None, stack

    def _remember(self, frame: FrameType) -> CallSite:
        code = frame.f_code
        module = module_of(frame)
        short = code.co_qualname.replace("<locals>.", "")
        function = f"{module}.{short}"
        settings = self._settings
        site = CallSite(
            function=function,
            short=short,
            file=code.co_filename,
            line=frame.f_lineno or code.co_firstlineno,
            ignored=settings.ignore.match(function, short, module),
            long_lived=settings.long_lived.match(function, short, module),
        )
        if len(self._sites) >= _MOST_SITES:
            self._sites.clear()
        helper = code.co_flags & _GENERATOR or code.co_name in ACQUIRES_FOR_CALLER
        plain = not helper and (not settings.repository or self._in_repository(module))
        # The code object is kept with the site, so that its id stays its own.
        self._sites[id(code), frame.f_lasti] = (code, site, plain)
        return site

    def _is_application_file(self, file: str) -> bool:
        known = self._files.get(file)
        if known is None:
            known = self._judge_file(file)
            if len(self._files) < _MOST_SITES:
                self._files[file] = known
        return known

    def _judge_file(self, file: str) -> bool:
        modules: list[tuple[str, Any]] = list(sys.modules.items())  # not everything in there is a module
        for name, module in modules:
            if issubclass(type(module), ModuleType):
                # Asking the module itself would import it, if it is a lazy one.
                namespace = object.__getattribute__(module, "__dict__")
                if namespace.get("__file__") == file:
                    return name == "__main__" or self.is_application_module(name, namespace)
        return not os.path.realpath(file).startswith(_STDLIB_FOLDERS) and not file.startswith("<frozen")


def _with_callers(frame: FrameType | None) -> Iterator[FrameType]:
    """A frame and its callers; from a greenlet that bridges also those of the coroutine that waits for it."""
    while frame is not None:
        yield frame
        frame = frame.f_back
    frame = bridged_to()
    while frame is not None:
        yield frame
        frame = frame.f_back


def _parents(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name
