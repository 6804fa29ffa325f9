"""``function_exited``: the owner's activation returned or raised without releasing or handing on (L2).

From `sys.monitoring` (PEP 669). ``PY_RETURN`` and ``PY_YIELD`` are local events, switched on only for code
that has acquired something. CPython refuses ``PY_UNWIND`` as a local event before 3.15, so there is one
global callback for it, which costs one dictionary look-up for each frame that an exception leaves. A code
object is not an activation (recursion, threads), so activations are known by the identity of their frame
object and their code; the frame object of an activation stays the same from the moment it was first looked at
to its end.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, Final

from otel_connleak.awaiter import awaiting_frames
from otel_connleak.callsite import CallSites
from otel_connleak.connection import Kind
from otel_connleak.evidence import Note
from otel_connleak.failures import Failures
from otel_connleak.frames import Activation
from otel_connleak.guard import failed
from otel_connleak.hold import Evidence, Hold
from otel_connleak.kept import has, kept_in_context, kept_on_argument
from otel_connleak.libraries import ACQUIRES_FOR_CALLER
from otel_connleak.monitor import Monitor
from otel_connleak.native import get_ident
from otel_connleak.registry import Registry

_GENERATOR: Final = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
_WRAPPED_YIELD: Final = "async_generator_wrapped_value"

type _Owned = Hold | dict[int, Hold]
"""What an activation owns: nearly always one hold, else several by their number."""


class Exits:
    """Watches the activations that own holds. `install` and `uninstall` are exact inverses and idempotent."""

    def __init__(self, registry: Registry, callsites: CallSites, note: Note) -> None:
        self._registry = registry
        self._callsites = callsites
        self._note = note
        self.failures = Failures(callsites.application_frames)
        self.failures.watch = self._watch_lines
        self._owners: dict[int, _Owned] = {}
        self._reaching: dict[int, dict[int, tuple[Hold, CodeType]]] = {}
        self._monitor = Monitor()
        self._active = False

    def install(self) -> str | None:
        """Take a free tool id. Returns None, or the reason why this evidence stays off."""
        if self._monitor.taken:
            return None
        events = sys.monitoring.events
        refused = self._monitor.take(
            {
                events.PY_RETURN: self._callback(self._returned),
                events.PY_YIELD: self._callback(self._yielded),
                events.PY_UNWIND: self._on_unwind(),
                events.LINE: self._on_line(),
            }
        )
        if refused is None:
            self._active = True
            self._registry.transactions.failures = self.failures
        return refused

    def uninstall(self) -> None:
        """Give the tool id back, with all events off."""
        if self._monitor.taken:
            self._active = False
            self._registry.transactions.failures = None
            self._monitor.give_back()
            self.clear()

    def acquired(self, hold: Hold) -> None:
        """A hold was opened: its owner's exit counts from now on."""
        if hold.owner and self._active:
            if not hold.site.watched and hold.code is not None:
                self._watch(hold.code)
                hold.site.watched = True
            if hold.owner in self._owners:
                self._own(hold)
            else:
                self._owners[hold.owner] = hold

    def released(self, hold: Hold) -> None:
        """A hold ended."""
        owned = self._owners.get(hold.owner)
        if owned is hold and hold.thread.ident == get_ident():
            self._owners.pop(hold.owner, None)
        elif owned is not None:
            self._disown(hold)

    def clear(self) -> None:
        """Forget all owners, in a forked child."""
        self._owners.clear()
        self._reaching.clear()
        self.failures.clear()

    def watch(self, hold: Hold, activation: Activation) -> None:
        """Note the exit of an activation that was found to reach a hold that is another's.

        Perhaps nobody can release the hold then. In the watchdog's thread.
        """
        identity, code = activation
        if not self._active or (hold.owner == identity and hold.code is code):
            return
        self.unwatch(hold)
        hold.reached_in = identity
        self._reaching.setdefault(identity, {})[hold.number] = hold, code
        self._watch(code)

    def unwatch(self, hold: Hold) -> None:
        """A hold ended, or another activation was found to reach it."""
        reached = self._reaching.get(hold.reached_in)
        if reached is not None:
            reached.pop(hold.number, None)
            if not reached:
                # A hold that is put there in just this moment loses its watch: it is looked at again anyway.
                self._reaching.pop(hold.reached_in, None)

    def _own(self, hold: Hold) -> None:
        owned = self._owners.get(hold.owner)
        # What an activation left behind that ended without an event (a dropped generator) is of another code.
        if owned is None or (isinstance(owned, Hold) and not (owned.is_open and owned.code is hold.code)):
            self._owners[hold.owner] = hold
        elif isinstance(owned, Hold):
            self._owners[hold.owner] = {owned.number: owned, hold.number: hold}
        else:
            owned[hold.number] = hold

    def _disown(self, hold: Hold) -> None:
        """Only the owner's thread takes out an entry: another could take out what was put there meanwhile."""
        owned = self._owners.get(hold.owner)
        if isinstance(owned, dict):
            owned.pop(hold.number, None)
        elif owned is not hold:
            return
        if (owned is hold or not owned) and hold.thread.ident == get_ident():
            self._owners.pop(hold.owner, None)

    def _watch(self, code: CodeType) -> None:
        events = sys.monitoring.events.PY_RETURN
        if code.co_flags & _GENERATOR:
            events |= sys.monitoring.events.PY_YIELD
        self._add_events(code, events)

    def _watch_lines(self, code: CodeType) -> None:
        self._add_events(code, sys.monitoring.events.LINE)

    def _add_events(self, code: CodeType, events: int) -> None:
        self._monitor.add(code, events, everywhere=sys.monitoring.events.PY_UNWIND)

    def _callback(
        self, handle: Callable[[FrameType, Any], None], depth: int = 1
    ) -> Callable[[CodeType, int, Any], None]:
        """The callback for an event. It must return None: ``DISABLE`` would silence every activation."""
        owners, reaching = self._owners, self._reaching
        get_frame = sys._getframe

        def on_event(_code: CodeType, _offset: int, value: Any) -> None:
            if (identity := id(get_frame(depth))) in owners or identity in reaching:
                try:
                    handle(get_frame(depth), value)
                except Exception:
                    failed(f"sys.monitoring {handle.__name__}")

        return on_event

    def _on_unwind(self) -> Callable[[CodeType, int, Any], None]:
        raised, failures = self._callback(self._raised, 2), self.failures
        watched, get_frame = failures.watched, sys._getframe

        def on_unwind(code: CodeType, offset: int, error: Any) -> None:
            if watched:  # somebody has written, and not committed yet
                try:
                    failures.left(get_frame(1))
                except Exception:
                    failed("sys.monitoring left")
            raised(code, offset, error)

        return on_unwind

    def _on_line(self) -> Callable[[CodeType, int], Any]:
        reached, get_frame, disable = self.failures.reached, sys._getframe, sys.monitoring.DISABLE

        def on_line(_code: CodeType, _line: int) -> Any:
            try:
                return None if reached(get_frame(1)) else disable
            except Exception:
                failed("sys.monitoring reached")
                return disable

        return on_line

    def _raised(self, frame: FrameType, _error: BaseException) -> None:
        # What the exception carries (its traceback) nobody will release.
        self._returned(frame, None)

    def _returned(self, frame: FrameType, value: Any) -> None:
        returned: set[Hold] = set()
        for hold in self._leave(frame):  # a connection before its transaction
            if self._goes_with_connection(hold, hold.within in returned):
                continue
            if self._hand_on(hold, frame, value):
                returned.add(hold)
        self._reaching_ended(frame)

    def _goes_with_connection(self, hold: Hold, blame: bool) -> bool:
        """Whether it is a transaction that another activation can end, which has its connection and is live.

        No search: this is what most functions of a repository come to that leave the commit to the caller.
        """
        within = hold.within
        if within is None or hold.kind is not Kind.TRANSACTION or not within.is_open:
            return False
        if not within.owner or within.thread is not hold.thread:
            return False
        self._disown(hold)
        self._registry.move(hold, (within.site, within.owner, within.code, within.stack), blame=blame)
        self._own(hold)
        # A fact for the report, if there is one; it proves nothing while the other one lives.
        hold.seen = {**(hold.seen or {}), Evidence.FUNCTION_EXITED: self._registry.clock()}
        return True

    def _yielded(self, frame: FrameType, value: Any) -> None:
        """A generator that owns a hold hands it to whoever iterates; it may still release it itself."""
        if frame.f_code.co_flags & inspect.CO_ASYNC_GENERATOR and type(value).__name__ != _WRAPPED_YIELD:
            return  # an await inside of it
        for hold in _open(self._owners.get(id(frame)), frame):
            if has(value, hold):
                consumer = self._callsites.next_owner(frame.f_back)
                if consumer is not None:
                    self._give(hold, consumer, blame=True)

    def _reaching_ended(self, frame: FrameType) -> None:
        """An activation ends that could reach holds: whoever has them now is found when they are judged."""
        for hold, code in list(self._reaching.pop(id(frame), {}).values()):
            if hold.is_open and code is frame.f_code:
                self._note(hold, Evidence.FUNCTION_EXITED, self._registry.clock())

    def _leave(self, frame: FrameType) -> list[Hold]:
        """The open holds of an activation that ends, which owns nothing afterwards."""
        return _open(self._owners.pop(id(frame), None), frame)

    def _hand_on(self, hold: Hold, frame: FrameType, value: Any) -> bool:
        """The owner's activation ends: to whom does the hold go? Returns whether it was returned."""
        returned = has(value, hold)
        kept = returned or kept_on_argument(frame, hold)
        hold.unseen = not kept and kept_in_context(hold)
        caller: FrameType | None = None
        if kept or hold.unseen:
            caller = self._callsites.next_owner(frame.f_back) or (self._awaiter(frame) if returned else None)
        if caller is None:
            # Nobody is the owner now: the next activation of this function may get the identity of this one.
            self._registry.move(hold, (hold.site, 0, None, hold.stack), blame=False)
        else:
            # Also what a helper of ``__enter__`` or ``__init__`` keeps on ``self`` is for the caller.
            helper = frame.f_code.co_name in ACQUIRES_FOR_CALLER
            self._give(hold, caller, blame=returned or helper)
            if returned or hold.unseen:
                return returned
            # Whether the caller has that object is not known: after the grace it is looked for.
        self._note(hold, Evidence.FUNCTION_EXITED, self._registry.clock())
        return False

    def _awaiter(self, frame: FrameType) -> FrameType | None:
        """The application's frame that awaits what an activation returns to a thread pool, or as a task."""
        return next(filter(self._callsites.is_application, awaiting_frames(frame)), None)

    def _give(self, hold: Hold, owner: FrameType, *, blame: bool) -> None:
        origin = self._callsites.origin_at(owner)
        self._disown(hold)
        self._registry.move(hold, origin, blame=blame)
        if not origin[0].watched:
            self._watch(owner.f_code)
            origin[0].watched = True
        self._own(hold)


def _open(owned: _Owned | None, frame: FrameType) -> list[Hold]:
    """What an activation owns that is open, and its own: its frame's identity may have been another one's."""
    holds = list(owned.values()) if isinstance(owned, dict) else [owned] if owned is not None else []
    return [hold for hold in holds if hold.is_open and hold.code is frame.f_code]
