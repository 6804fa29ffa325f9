"""Django's ``atomic`` blocks: an outermost one is a transaction, which whoever has entered must leave (L1).

The block is the transaction, and not what the driver says: it begins before its first statement, and where
the connection breaks, Django still waits for its end. What the driver sees counts in it all the same.
"""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from otel_connleak.awaiter import awaiting_frames
from otel_connleak.connection import Kind, Tracked, Transaction
from otel_connleak.drivers.django import DRIVER, trackable
from otel_connleak.frames import upwards
from otel_connleak.guard import failed
from otel_connleak.hold import Ending, Hold
from otel_connleak.libraries import FRAMEWORKS, INFRASTRUCTURE
from otel_connleak.nested import TransactionHold
from otel_connleak.patching import Patches
from otel_connleak.registry import Registry

_HINT: Final = (
    "use `with transaction.atomic():` so that it ends on every path, and do slow work before or after it"
)
_NOT_THE_APPLICATION: Final = INFRASTRUCTURE | FRAMEWORKS | sys.stdlib_module_names
_DATABASE_LAYER: Final = ("django.db.", "django.utils.")
"""Modules that say nothing of what a connection was needed for."""


class _Block:
    """An outermost ``atomic`` block that is open; also what is tracked where its `Atomic` serves several.

    Attributes:
        call: identity of the frame that will leave the block, where ``atomic`` decorates a function; else 0.
        hold: the hold of its transaction; None while it is not known which function runs in the block.
        placed: whether that hold's owner is known; not yet, where the driver has told of its ``BEGIN``.
    """

    __slots__ = ("__weakref__", "call", "hold", "placed")

    def __init__(self) -> None:
        self.call = 0
        self.hold: Hold | None = None
        self.placed = False


class AtomicBlocks:
    """The hooks of ``Atomic``.

    Args:
        source: the adapter's name.
        registry: is told.
        patches: of the adapter: while they are not active, the hooks do nothing but call the original.
        connection_of: gives Django's wrapper of a connection for the name of a database.
    """

    def __init__(
        self, source: str, registry: Registry, patches: Patches, connection_of: Callable[[Any], Any]
    ) -> None:
        self._source = source
        self._registry = registry
        self._patches = patches
        self._connection_of = connection_of
        # By an object of Django's, which is gone when nobody has it any more.
        self._blocks: weakref.WeakKeyDictionary[Any, _Block] = weakref.WeakKeyDictionary()

    # --- begin ---------------------------------------------------------------------------------------------

    def enters(self, original: Any) -> Any:
        """For ``Atomic.__enter__``."""

        @functools.wraps(original)
        def __enter__(atomic: Any) -> Any:
            result = original(atomic)
            if self._patches.active:
                self._entered(atomic, sys._getframe(1))
            return result

        return __enter__

    def _entered(self, atomic: Any, frame: FrameType) -> None:
        try:
            wrapper = self._connection_of(atomic.using)
            # Not within another block, or within a transaction of the application's own.
            if len(wrapper.atomic_blocks) != 1 or not wrapper.commit_on_exit:
                return
            if atomic._from_testcase:
                self._in_test(wrapper, True)
                return
            block = self._blocks[wrapper] = _Block()
            if frame.f_code.co_name == "inner" and frame.f_globals.get("__name__") == "contextlib":
                block.call = id(frame)  # that of `contextlib.ContextDecorator`, which is never left before
                block.hold = self._begun(wrapper, block)
            else:
                # One `Atomic` may be entered in several threads.
                shared = self._registry.hold_of(atomic) is not None
                block.hold = self._begin(wrapper, block if shared else atomic, asking(frame))
                block.placed = True
        except Exception:
            failed("django atomic")

    def _in_test(self, wrapper: Any, begins: bool) -> None:
        """All that a test does is one transaction, which Django rolls back."""
        connection = self._registry.hold_of(trackable(wrapper)) if wrapper.connection is not None else None
        if connection is not None:
            connection.untold = begins
            if connection.inner is not None:
                self._registry.transactions.end(connection, Ending.NONE)

    def _begin(self, wrapper: Any, block: Any, frame: FrameType) -> Hold:
        begun = self._begun(wrapper, block)
        if begun is not None:
            self._registry.move(begun, self._registry.locate(frame), blame=True)
            return begun
        connection = self._registry.hold_of(trackable(wrapper))
        acquire = functools.partial(self._registry.acquire, self._source, block, frame, self._track)
        if connection is None:
            hold = acquire(wrapper, None)
            hold.long_lived = True  # it was there before us: its calls are not seen
            return hold
        inner: Any = acquire(wrapper, connection, make=functools.partial(TransactionHold, connection, None))
        inner.block = True
        error = sys.exception()
        inner.error_before = 0 if error is None else id(error)
        connection.inner = inner
        return inner  # type: ignore[no-any-return]  # what ``make`` makes

    def _begun(self, wrapper: Any, block: Any) -> Hold | None:
        """The transaction of which the driver has told: with SQLite, Django begins it by a statement."""
        connection = self._registry.hold_of(trackable(wrapper))
        inner: TransactionHold | None = connection.inner if connection is not None else None
        if inner is not None:
            self._registry.replaced(inner, self._track(block, wrapper, connection))
            inner.block = True
        return inner

    def _track(self, block: Any, wrapper: Any, connection: Hold | None) -> Tracked:
        facts = connection.tracked.facts if connection is not None else DRIVER.facts(wrapper)
        reference = weakref.ref(wrapper)
        status = functools.partial(status_of, reference)
        tracked = self._registry.track(block, facts, status, None, kind=Kind.TRANSACTION)
        tracked.hint = _HINT
        if isinstance(block, _Block):
            tracked.library = weakref.ref(self._blocks)
        else:
            # Django refers to it until it is left: that alone is nobody who can leave it.
            tracked.library, tracked.keeps = reference, functools.partial(_kept, reference)
        return tracked

    def before_statement(self, wrapper: Any) -> None:
        """A statement is to be run: the first one of a decorated function tells whose block it is."""
        block = self._blocks.get(wrapper)
        if block is not None and block.call and not block.placed:
            self._begin_call(wrapper, block)

    def _begin_call(self, wrapper: Any, block: _Block) -> None:
        """The first statement of a decorated function: only now its activation is on the stack."""
        function: FrameType | None = None
        for frame in upwards(sys._getframe(1)):
            if id(frame) != block.call:
                function = frame if function is None or _is_application(frame) else function
                continue
            if function is not None:
                block.placed = True
                hold = block.hold = self._begin(wrapper, block, function)
                # The decorator leaves the block when the function has exited: its frame is the owner.
                owner = hold.site, block.call, frame.f_code, hold.stack
                self._registry.move(hold, owner, blame=False)
            return

    # --- end -----------------------------------------------------------------------------------------------

    def exits(self, original: Any) -> Any:
        """For ``Atomic.__exit__``."""

        @functools.wraps(original)
        def __exit__(atomic: Any, *about: Any) -> Any:
            wrapper, block = self._exiting(atomic) if self._patches.active else (None, None)
            try:
                return original(atomic, *about)
            finally:
                # What was committed has been left by then (`commits`).
                self._leave(wrapper, block, Ending.ROLLED_BACK)

        return __exit__

    def _exiting(self, atomic: Any) -> tuple[Any, _Block | None]:
        try:
            wrapper = self._connection_of(atomic.using)
            if len(wrapper.atomic_blocks) <= 1:  # none if it has connected anew
                if atomic._from_testcase:
                    self._in_test(wrapper, False)
                return wrapper, self._blocks.get(wrapper)
        except Exception:
            failed("django atomic")
        return None, None

    def commits(self, original: Any) -> Any:
        """For what calls, within ``__exit__``, whatever waits for the commit: the transaction is over."""

        @functools.wraps(original)
        def run_and_clear_commit_hooks(wrapper: Any, *args: Any, **kwargs: Any) -> Any:
            if self._patches.active and not wrapper.in_atomic_block:
                self._leave(wrapper, self._blocks.get(wrapper), Ending.COMMITTED)
            return original(wrapper, *args, **kwargs)

        return run_and_clear_commit_hooks

    def _leave(self, wrapper: Any, block: _Block | None, ending: Ending) -> None:
        if block is None:
            return
        try:
            if self._blocks.get(wrapper) is block:
                del self._blocks[wrapper]
            hold, block.hold = block.hold, None
            if hold is None:
                return
            connection = hold.within
            if not isinstance(hold, TransactionHold) or connection is None:
                hold.ending = ending
                self._registry.over(hold)
            else:
                # PostgreSQL rolls back, and gives no error, if an aborted transaction is to be committed.
                refused = hold.ending is Ending.ROLLED_BACK
                end = Ending.ROLLED_BACK if refused else ending
                self._registry.transactions.end_block(connection, hold, end)
            # So that nobody is told when the block dies.
            self._registry.forget(hold.tracked)
        except Exception:
            failed("django atomic")

    def closing(self, wrapper: Any) -> None:
        """A connection is about to be closed. If that is in a block, there is still somebody to leave it.

        Not where it has written: what is lost now is the worse news, and names the same function.
        """
        block = self._blocks.get(wrapper) if wrapper.in_atomic_block else None
        hold = block.hold if block is not None else None
        if isinstance(hold, TransactionHold) and hold.is_open and not hold.writes:
            hold.keep_figures()
            hold.within.inner = None
            hold.ending = hold.within.ending = Ending.ROLLED_BACK


def status_of(reference: weakref.ref[Any], _tracked: Any) -> Transaction:
    """The transaction status of the connection that a wrapper has; whatever else is tracked."""
    wrapper = reference()
    return Transaction.UNKNOWN if wrapper is None else DRIVER.transaction(wrapper)


def _kept(reference: weakref.ref[Any], atomic: Any) -> int:
    wrapper = reference()
    return 0 if wrapper is None else sum(1 for each in wrapper.atomic_blocks if each is atomic)


def _is_application(frame: FrameType) -> bool:
    return _module(frame).partition(".")[0] not in _NOT_THE_APPLICATION


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__"))


def asking(frame: FrameType) -> FrameType:
    """Where to look for whoever asked for it; ``await …aget()`` asks from a thread of asgiref's."""
    nearest = frame
    for each in upwards(frame):
        name = _module(each)
        if _is_application(each) and name != "__main__":  # that may be the server's own script
            return each
        if name == "asgiref.current_thread_executor":
            break  # what is further up only waits, in ``async_to_sync``
        # Where only Django runs, its session or its command says more than its database layer.
        if name.startswith("django.") and _module(nearest).startswith(_DATABASE_LAYER):
            nearest = each
    return next(filter(_is_application, awaiting_frames(frame)), nearest)
