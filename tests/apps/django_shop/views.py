"""The views; each says in which process and trace it was answered."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.db import transaction
from django.http import HttpRequest, JsonResponse, StreamingHttpResponse
from opentelemetry import trace

from .repositories import CustomerRepository

repository = CustomerRepository()


def customers(request: HttpRequest) -> JsonResponse:
    """Correct."""
    meet(request)
    return answer(names=repository.list_customers())


def rename(request: HttpRequest) -> JsonResponse:
    """Correct."""
    meet(request)
    repository.rename("nobody")
    return answer()


@transaction.non_atomic_requests
def export(request: HttpRequest) -> StreamingHttpResponse:
    """Correct: the response is written while the query runs."""
    meet(request)
    response = StreamingHttpResponse(f"{name}\n" for name in repository.export())
    response.headers["X-Trace"] = here()["trace"]
    return response


def tidy_background(request: HttpRequest) -> JsonResponse:
    """Correct: its thread closes its connection."""
    meet(request)
    in_thread(repository.refresh_and_close)
    return answer()


def background(request: HttpRequest) -> JsonResponse:
    """Leaves a thread's connection behind."""
    meet(request)
    in_thread(repository.refresh)
    return answer()


def checkout(request: HttpRequest) -> JsonResponse:
    """Calls a slow service while Django holds a transaction for the whole request."""
    meet(request)
    repository.list_customers()
    threading.Event().wait(float(request.GET["seconds"]))
    return answer()


@transaction.non_atomic_requests
def reserve(request: HttpRequest) -> JsonResponse:
    """Leaves a transaction open."""
    meet(request)
    return answer(reserved=repository.reserve())


def in_thread(work: Callable[[], object]) -> None:
    """Do some work in the background."""
    thread = threading.Thread(target=work, name="refresher")
    thread.start()
    thread.join()


def here() -> dict[str, Any]:
    """Where a request is answered."""
    context = trace.get_current_span().get_span_context()
    return {"pid": os.getpid(), "trace": f"{context.trace_id:032x}"}


def answer(**about: object) -> JsonResponse:
    """An answer that says so."""
    return JsonResponse(here() | about)


def meet(request: HttpRequest) -> None:
    """Go on only when two workers are answering, so that each of them gets one of two requests."""
    meeting = Path(os.environ["MEETING"], request.GET["meeting"])
    meeting.mkdir(exist_ok=True)
    (meeting / str(os.getpid())).touch()
    deadline = time.monotonic() + 20
    while len(list(meeting.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
