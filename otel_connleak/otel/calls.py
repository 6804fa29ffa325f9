"""Which spans are calls to another service, and a name for them that gives nothing away (L3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind

_KINDS: Final = (SpanKind.CLIENT, SpanKind.PRODUCER)
_CALLS: Final = (
    "http.request.method",
    "http.method",
    "url.full",
    "http.url",
    "rpc.system",
    "rpc.system.name",
    "messaging.system",
)
"""One of these attributes is on every such span, by the present semantic conventions or by earlier ones."""
_HOSTS: Final = ("server.address", "net.peer.name", "http.host")
_ADDRESSES: Final = ("url.full", "http.url")


def is_call(span: ReadableSpan) -> bool:
    """Whether a span is of a call to another service that is no database."""
    attributes = span.attributes
    if span.kind not in _KINDS or not attributes:
        return False
    return any(name in attributes for name in _CALLS) and not any(
        name.startswith("db.") for name in attributes
    )


def name_of(span: ReadableSpan) -> str:
    """The span's name with the host, for example ``GET payments.example/charge``; never a query string."""
    name = span.name.partition("?")[0].strip()
    host = _host(span.attributes or {})
    if not host or host in name:
        return name
    method, _, route = name.partition(" ")
    if route.startswith("/"):
        return f"{method} {host}{route}"
    return f"{name} {host}" if name.isupper() else f"{name} at {host}"


def _host(attributes: Mapping[str, Any]) -> str:
    for name in _HOSTS:
        if attributes.get(name):
            return str(attributes[name])
    for name in _ADDRESSES:
        try:
            # Not the whole network location: there may be a password in it.
            host = urlsplit(str(attributes.get(name, ""))).hostname
        except ValueError:
            continue
        if host:
            return host
    return ""
