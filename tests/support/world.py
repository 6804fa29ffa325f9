"""Modules made from text, with any name and any file, whose functions acquire something."""

import sys
import threading
import types
from collections.abc import Callable
from typing import Any

from otel_connleak.callsite import CallSites
from otel_connleak.config import load
from otel_connleak.hold import Origin


class World:
    """A place for such modules. What is in this file counts as a library.

    Args:
        library_modules: further ones.
        settings: as for ``ConnLeakInstrumentor().instrument``.

    Attributes:
        origins: of everything that was acquired so far.
    """

    def __init__(self, library_modules: str = "", **settings: Any) -> None:
        settings["library_modules"] = f"tests.support,{library_modules}"
        parsed, refused = load(settings, environ={})
        assert not refused
        self.callsites = CallSites(parsed)
        self.origins: list[Origin] = []

    def acquire(self) -> str:
        """Acquire for the caller; returns the function that is the owner."""
        self.origins.append(self.callsites.locate(sys._getframe(1)))
        return self.origins[-1][0].function

    def module(self, name: str, source: str, file: str | None = None, **names: Any) -> Any:
        """Run the source of a module, in which ``acquire()`` acquires; returns its namespace."""
        file = file or f"/srv/{name.replace('.', '/')}.py"
        namespace = {"__name__": name, "__file__": file, "acquire": self.acquire, **names}
        exec(compile(source, file, "exec"), namespace)
        return types.SimpleNamespace(**namespace)

    def stack(self, *modules: str | tuple[str, str]) -> str:
        """The owner where a function ``f`` of each module calls that of the next, and the last one acquires.

        Nothing but libraries is above them.

        Args:
            modules: outermost first; names, or names with files.
        """
        called: Callable[[], str] = self.acquire
        for module in reversed(modules):
            name, file = module if isinstance(module, tuple) else (module, None)
            called = self.module(name, "def f():\n    return called()", file, called=called).f
        return alone(called)


def alone[T](function: Callable[[], T]) -> T:
    """Call a function with nothing but libraries above it."""
    results: list[T] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]
