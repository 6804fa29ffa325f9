"""FastAPI with SQLAlchemy's asyncio: dependencies, streams and background tasks that are correct, or leak."""

import sys
import urllib.error
from collections.abc import Iterator

import pytest

from examples.otlp_receiver import OtlpReceiver
from tests.frameworks.service import LONGER_THAN_GRACE, Report, ask, expect, holds
from tests.support.launcher import APPS, LAUNCHER, WITH_FRAMEWORKS, Launched, environment, exporting_to
from tests.support.waiting import wait_until

CORRECT = ("/customers", "/slow", "/export", "/letters")
LEAKING = {
    "/leak/dependency": "fastapi_shop.CustomerRepository.search",
    "/leak/stream": "fastapi_shop.first_line",
    "/leak/background": "fastapi_shop.forget_letters",
}


@pytest.fixture
def shop(dsn: str, receiver: OtlpReceiver) -> Iterator[tuple[Launched, str]]:
    """The shop on uvicorn under the launcher, and its address."""
    command = [str(LAUNCHER), sys.executable, "-m", "uvicorn", f"--app-dir={APPS}", "--port=0"]
    command += ["fastapi_shop:app"]
    env = environment(DSN=dsn, SLOW=str(LONGER_THAN_GRACE)) | WITH_FRAMEWORKS | exporting_to(receiver)
    with Launched(command, env) as server:
        yield server, server.wait_for_output(r"running on (http://[\d.:]+)")[1]


def test_correct_endpoints(shop: tuple[Launched, str], receiver: OtlpReceiver) -> None:
    """A session of a dependency, a stream, a background task and an exception's way out: no report."""
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
    """Each leak is blamed on the function that acquired, in the trace of its request."""
    server, address = shop
    answers = {path: ask(address, path) for path in LEAKING}
    for path in CORRECT:
        ask(address, path)

    expect(receiver, {Report(LEAKING[path], answer.trace) for path, answer in answers.items()}, server)
