"""Django: the connection that it keeps for each thread, and its ``atomic`` blocks (L2).

A connection belongs to its thread. Whatever needs it first opens it, and Django closes it at the end of a
request, or much later (``CONN_MAX_AGE``): so only a thread that ends with it speaks against it. An outermost
``atomic`` block is a transaction, which whoever has entered must leave.
"""

from __future__ import annotations

import functools
import sys
import weakref
from types import FrameType
from typing import Any, Final

from otel_connleak.awaiter import awaiting_frames
from otel_connleak.config import Settings
from otel_connleak.connection import Kind, Pool, Tracked, Transaction
from otel_connleak.drivers import driver_of
from otel_connleak.drivers.django import DRIVER, has_connected, pool_figures, pool_name, sees_calls, trackable
from otel_connleak.frames import upwards
from otel_connleak.guard import failed
from otel_connleak.hold import Hold
from otel_connleak.hooks import Hooks
from otel_connleak.libraries import FRAMEWORKS, INFRASTRUCTURE
from otel_connleak.nested import TransactionHold
from otel_connleak.nesting import inside
from otel_connleak.patching import Patches
from otel_connleak.registry import Registry

_SOURCE: Final = "django"
_HINT: Final = (
    "call `connection.close()` in a `finally` before the thread ends: Django does so after requests only"
)
_KEPT_HINT: Final = (
    f"{_HINT}; where each request has a thread (ASGI, gevent, runserver), set CONN_MAX_AGE to 0"
)
_ATOMIC_HINT: Final = (
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
    """

    __slots__ = ("__weakref__", "call", "hold")

    def __init__(self) -> None:
        self.call = 0
        self.hold: Hold | None = None


class DjangoAdapter:
    """Hooks connect and close of all backends, ``Atomic``, and what runs a statement."""

    module = "django.db"  # and not the one of the backends: the first ``atomic`` block loads that

    def __init__(self) -> None:
        self._patches = Patches()

    def install(self, registry: Registry, settings: Settings) -> None:
        """Hook Django. Raises `AttributeError` if it has changed."""
        from django.db import transaction
        from django.db.backends.base.base import BaseDatabaseWrapper
        from django.db.backends.utils import CursorWrapper

        self._registry = registry
        self._connection_of = transaction.get_connection
        # By an object of Django's, which is gone when nobody has it any more.
        self._blocks: weakref.WeakKeyDictionary[Any, _Block] = weakref.WeakKeyDictionary()
        self._pools: weakref.WeakKeyDictionary[Any, Pool] = weakref.WeakKeyDictionary()
        hooks = Hooks(_SOURCE, registry, self._patches)
        closes = functools.partial(hooks.releases, subject=_to_close)
        calls = functools.partial(
            hooks.calls, subject=self._before_statement, statement=settings.statements != "off"
        )
        replace = self._patches.replace
        replace(BaseDatabaseWrapper, "connect", self._connect)
        replace(BaseDatabaseWrapper, "close", closes)
        replace(BaseDatabaseWrapper, "run_and_clear_commit_hooks", self._committed)
        replace(transaction.Atomic, "__enter__", self._enter)
        replace(transaction.Atomic, "__exit__", self._exit)
        replace(CursorWrapper, "_execute_with_wrappers", calls)
        replace(CursorWrapper, "callproc", calls)

    def uninstall(self) -> None:
        """Give back the identical functions."""
        self._patches.undo()

    # --- connections ---------------------------------------------------------------------------------------

    def _connect(self, original: Any) -> Any:
        @functools.wraps(original)
        def connect(wrapper: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._patches.active:
                return original(wrapper, *args, **kwargs)
            before = wrapper.connection
            token = inside.set(True)
            try:
                return original(wrapper, *args, **kwargs)
            finally:
                inside.reset(token)
                # Also when it has raised: the connection may be there, and is used by the next query.
                self._connected(wrapper, before, sys._getframe(1))

        return connect

    def _connected(self, wrapper: Any, before: Any, frame: FrameType) -> None:
        try:
            if has_connected(wrapper, before):
                self._registry.acquire(_SOURCE, trackable(wrapper), _asking(frame), self._track, wrapper)
        except Exception:
            failed("django connect")

    def _track(self, connection: Any, wrapper: Any) -> Tracked:
        status, pool = driver_of(connection).transaction, self._pool_of(wrapper)
        tracked = self._registry.track(connection, DRIVER.facts(wrapper), status, pool, by_design=True)
        tracked.hint = _HINT if wrapper.settings_dict["CONN_MAX_AGE"] == 0 else _KEPT_HINT
        return tracked

    def _pool_of(self, wrapper: Any) -> Pool | None:
        """The pool that a database has by its option ``pool``."""
        library = getattr(wrapper, "pool", None)
        if not library:
            return None
        known = self._pools.get(library)
        if known is None:
            reference = weakref.ref(library)
            known = Pool(pool_name(wrapper), lambda: pool_figures(reference()), _HINT, library=reference)
        # Threads may come here at the same time: one record counts what all of them hold.
        return self._pools.setdefault(library, known)

    # --- transactions --------------------------------------------------------------------------------------

    def _enter(self, original: Any) -> Any:
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
            # Not within another block or the application's own transaction, and not that of a whole test.
            if len(wrapper.atomic_blocks) != 1 or not wrapper.commit_on_exit or atomic._from_testcase:
                return
            block = self._blocks[wrapper] = _Block()
            if frame.f_code.co_name == "inner" and frame.f_globals.get("__name__") == "contextlib":
                block.call = id(frame)  # that of `contextlib.ContextDecorator`, which is never left before
            else:
                # One `Atomic` may be entered in several threads.
                shared = self._registry.hold_of(atomic) is not None
                block.hold = self._begin(wrapper, block if shared else atomic, _asking(frame))
        except Exception:
            failed("django atomic")

    def _begin(self, wrapper: Any, block: Any, frame: FrameType) -> Hold:
        connection = self._registry.hold_of(trackable(wrapper))
        make = functools.partial(TransactionHold, connection) if connection is not None else Hold
        acquire = self._registry.acquire
        hold = acquire(_SOURCE, block, frame, self._track_block, wrapper, connection, make=make)
        if connection is None:
            hold.long_lived = True  # it was there before us: its calls are not seen
        return hold

    def _track_block(self, block: Any, wrapper: Any, connection: Hold | None) -> Tracked:
        facts = connection.tracked.facts if connection is not None else DRIVER.facts(wrapper)
        reference = weakref.ref(wrapper)
        status = functools.partial(_status, reference)
        tracked = self._registry.track(block, facts, status, None, kind=Kind.TRANSACTION)
        tracked.hint = _ATOMIC_HINT
        if isinstance(block, _Block):
            tracked.library = weakref.ref(self._blocks)
        else:
            # Django refers to it until it is left: that alone is nobody who can leave it.
            tracked.library, tracked.keeps = reference, functools.partial(_kept, reference)
        return tracked

    def _before_statement(self, cursor: Any) -> Any:
        """A statement is to be run; gives the connection if its driver does not tell us of that itself."""
        wrapper = cursor.db
        block = self._blocks.get(wrapper)
        if block is not None and block.call and block.hold is None:
            self._begin_call(wrapper, block)
        return None if sees_calls(wrapper) else trackable(wrapper)

    def _begin_call(self, wrapper: Any, block: _Block) -> None:
        """The first statement of a decorated function: only now its activation is on the stack."""
        function: FrameType | None = None
        for frame in upwards(sys._getframe(1)):
            if id(frame) != block.call:
                function = frame if function is None or _is_application(frame) else function
                continue
            if function is not None:
                hold = block.hold = self._begin(wrapper, block, function)
                # The decorator leaves the block when the function has exited: its frame is the owner.
                owner = hold.site, block.call, frame.f_code, hold.stack
                self._registry.move(hold, owner, blame=False)
            return

    def _exit(self, original: Any) -> Any:
        @functools.wraps(original)
        def __exit__(atomic: Any, *about: Any) -> Any:
            wrapper, block = self._exiting(atomic) if self._patches.active else (None, None)
            try:
                return original(atomic, *about)
            finally:
                self._leave(wrapper, block)

        return __exit__

    def _exiting(self, atomic: Any) -> tuple[Any, _Block | None]:
        try:
            wrapper = self._connection_of(atomic.using)
            if len(wrapper.atomic_blocks) <= 1:  # none if it has connected anew
                return wrapper, self._blocks.get(wrapper)
        except Exception:
            failed("django atomic")
        return None, None

    def _committed(self, original: Any) -> Any:
        """What is to be called on commit is called within ``__exit__``, when the transaction is over."""

        @functools.wraps(original)
        def run_and_clear_commit_hooks(wrapper: Any, *args: Any, **kwargs: Any) -> Any:
            if self._patches.active and not wrapper.in_atomic_block:
                self._leave(wrapper, self._blocks.get(wrapper))
            return original(wrapper, *args, **kwargs)

        return run_and_clear_commit_hooks

    def _leave(self, wrapper: Any, block: _Block | None) -> None:
        if block is None:
            return
        try:
            if self._blocks.get(wrapper) is block:
                del self._blocks[wrapper]
            hold, block.hold = block.hold, None
            if hold is not None:
                self._registry.over(hold)
                # So that nobody is told when the block dies.
                self._registry.forget(hold.tracked)
        except Exception:
            failed("django atomic")


def _to_close(wrapper: Any) -> Any:
    """What is released by ``close()``; nothing if it has no connection, or refuses because of the thread."""
    if wrapper.connection is None or wrapper.closed_in_transaction:
        return None
    try:
        wrapper.validate_thread_sharing()
    except Exception:
        return None
    return trackable(wrapper)


def _status(reference: weakref.ref[Any], _block: Any) -> Transaction:
    wrapper = reference()
    return Transaction.UNKNOWN if wrapper is None else DRIVER.transaction(wrapper)


def _kept(reference: weakref.ref[Any], atomic: Any) -> int:
    wrapper = reference()
    return 0 if wrapper is None else sum(1 for each in wrapper.atomic_blocks if each is atomic)


def _is_application(frame: FrameType) -> bool:
    return _module(frame).partition(".")[0] not in _NOT_THE_APPLICATION


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__"))


def _asking(frame: FrameType) -> FrameType:
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
