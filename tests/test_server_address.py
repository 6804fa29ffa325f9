"""Where a connection leads to: a host and port, or the folder of a Unix socket."""

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.support.telemetry import Telemetry


def pump(source: socket.socket, target: socket.socket) -> None:
    """Passes on what arrives, until one side closes."""
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def tcp_port(postgres: str) -> Iterator[int]:
    """A TCP port on the loopback interface that leads to the server, which has only a Unix socket."""
    parameters = conninfo_to_dict(postgres)
    path = f"{parameters['host']}/.s.PGSQL.{parameters.get('port') or 5432}"
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            client, _ = listener.accept()
            with client, socket.socket(socket.AF_UNIX) as server:
                server.connect(path)
                back = threading.Thread(target=pump, args=(server, client))
                back.start()
                pump(client, server)
                back.join(10)

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1]
    listener.close()
    thread.join(10)


def test_tcp(postgres: str, tcp_port: int, telemetry: Telemetry) -> None:
    """Over TCP a hold has the server's host and port."""
    with telemetry.instrumented():
        psycopg.connect(make_conninfo(postgres, host="127.0.0.1", port=tcp_port)).close()
    attributes = telemetry.span("hold").attributes or {}
    assert attributes["server.address"] == "127.0.0.1"
    assert attributes["server.port"] == tcp_port


def test_unix_socket(postgres: str, telemetry: Telemetry) -> None:
    """Over a Unix socket a hold has the socket's folder and no port."""
    with telemetry.instrumented():
        psycopg.connect(postgres).close()
    attributes = telemetry.span("hold").attributes or {}
    assert attributes["server.address"] == conninfo_to_dict(postgres)["host"]
    assert "server.port" not in attributes
