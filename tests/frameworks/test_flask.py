"""Flask with SQLAlchemy's scoped_session: views, streams and threads that are correct, or leak."""

import sys
import urllib.error
from collections.abc import Iterator

import pytest

from examples.otlp_receiver import OtlpReceiver
from tests.frameworks.service import LONGER_THAN_GRACE, Report, ask, expect, holds
from tests.support.launcher import APPS, LAUNCHER, Launched, environment, exporting_to
from tests.support.waiting import wait_until

CORRECT = ("/customers", "/slow", "/export", "/letters")
LEAKING = {
    "/leak/connection": "flask_shop.CustomerRepository.search",
    "/leak/session": "flask_shop.CustomerRepository.report",
}
IN_THREAD = "flask_shop.forget_session"


@pytest.fixture
def shop(dsn: str, receiver: OtlpReceiver) -> Iterator[tuple[Launched, str]]:
    """The shop on Flask's own threaded server under the launcher, and its address."""
    command = [str(LAUNCHER), sys.executable, "-m", "flask", "--app", str(APPS / "flask_shop.py")]
    env = environment(DSN=dsn, SLOW=str(LONGER_THAN_GRACE)) | exporting_to(receiver)
    with Launched([*command, "run", "--port=0"], env) as server:
        yield server, server.wait_for_output(r"Running on (http://[\d.:]+)")[1]


def test_correct_views(shop: tuple[Launched, str], receiver: OtlpReceiver) -> None:
    """A scoped session that is removed with its request, a stream, a thread of its own: no report."""
    server, address = shop
    for path in CORRECT:
        ask(address, path)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        ask(address, "/nobody")

    expect(receiver, set(), server)
    functions = {
        "CustomerRepository.names",
        "CustomerRepository.count",
        "export.lines",
        "send_letters",
    }
    wait_until(lambda: holds(receiver) == functions, "the holds")


def test_leaks(shop: tuple[Launched, str], receiver: OtlpReceiver) -> None:
    """Each leak is blamed on the function that acquired, in the trace of its request.

    A thread of the application's own knows no trace.
    """
    server, address = shop
    answers = {path: ask(address, path) for path in LEAKING}
    for path in CORRECT:
        ask(address, path)
    ask(address, "/leak/thread")
    expected = {Report(LEAKING[path], answer.trace) for path, answer in answers.items()}

    expect(receiver, expected, server, without_trace={IN_THREAD})
