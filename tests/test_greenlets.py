"""gevent replaces threads, locks and queues: the service goes on, and is watched, as ever."""

import re
import sys

import pytest

from otel_connleak import frames, native
from tests.support.launcher import APPS, environment, run
from tests.support.toy import Connection


def test_service_on_gevent(dsn: str) -> None:
    """A leak is named, a session of a waiting greenlet is none, and the event loop is never stopped."""
    finished = run(APPS / "greenlets.py", env=environment(DSN=dsn))
    turns = re.search(r"the loop turned (\d+) times", finished.stderr)

    assert finished.returncode == 0
    assert "Traceback" not in finished.stderr
    assert turns is not None
    assert int(turns[1]) > 20
    blamed = [line.partition("]: ")[2].partition("  ")[0] for line in finished.leaks]
    assert blamed == ["__main__.find_customer"]
    assert "(possible, thread_ended, function_exited)" in finished.leaks[0]
    assert "thread find_customer of a seller" in finished.stderr


def test_frames_of_a_suspended_greenlet() -> None:
    """What waits in a greenlet is alive, with what is in its variables, until it is over."""
    greenlet = pytest.importorskip("greenlet")
    kept = Connection()

    def waits(held: Connection) -> None:
        greenlet.getcurrent().parent.switch()
        assert held is kept

    suspended = greenlet.greenlet(waits)
    suspended.switch(kept)
    values = [value for frame in frames.greenlet_frames(suspended) for value in frames.local_values(frame)]
    assert kept in values
    suspended.switch()
    assert list(frames.greenlet_frames(suspended)) == []


def test_threads_of_the_operating_system() -> None:
    """Without gevent or eventlet, threads are what they are; a latch opens once and for all."""
    assert not native.threads_are_greenlets()
    opened = native.Latch()
    assert not opened.wait(0.01)
    thread = native.Thread(opened.open, "opens it")
    thread.start()
    thread.join(10)
    opened.open()
    assert [opened.wait(10), opened.wait(10)] == [True, True]


@pytest.mark.parametrize("module", ["gevent.monkey", "eventlet.patcher"])
def test_originals_of_a_patched_process(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where something was patched before we were imported, the patcher is asked for the originals."""

    class Originals:
        start_new_thread = staticmethod(lambda: "original")

    class Patcher:
        original = staticmethod(lambda _module: Originals)
        get_original = staticmethod(lambda _module, name: getattr(Originals, name))
        is_module_patched = staticmethod(lambda name: name == "threading")
        is_monkey_patched = staticmethod(lambda name: name == "thread")

    for name in ("gevent.monkey", "eventlet.patcher"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, module, Patcher)
    assert native._original("start_new_thread")() == "original"
    assert native.threads_are_greenlets()
