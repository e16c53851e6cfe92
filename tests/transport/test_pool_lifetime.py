"""Pools end with their event loop: no open socket, no warning, on asyncio and trio."""

from __future__ import annotations

import gc
import os
import ssl
from collections.abc import Callable

import anyio
import pytest

from majordomo import ConfigurationError
from majordomo.settings import Timeout
from majordomo.transport import BaseURL
from majordomo.transport.base_url import encode_headers
from majordomo.transport.http_transport import HTTPTransport
from majordomo.transport.tls import context_for
from majordomo.transport_types import Deadline, HTTPRequest
from tests.support import system
from tests.support.loopback import Handler, Loopback, http_response, reply_with

Serve = Callable[[Handler], Loopback]


def make_http_transport(server: Loopback) -> HTTPTransport:
    base_url = BaseURL.parse(server.url)
    return HTTPTransport(base_url, headers=encode_headers(base_url, {}))


async def fetch(transport: HTTPTransport) -> bytes:
    response = await transport.open(HTTPRequest("GET", "/"), Deadline(Timeout(total=5)))
    body = b""
    while chunk := await response.read():
        body += chunk
    await response.aclose()
    return body


def count_sockets() -> int:
    """Return the number of open sockets of this process."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        except OSError:
            continue
    return count


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_two_event_loops_without_a_close_leave_no_socket_and_no_warning(
    serve: Serve, backend: str
) -> None:
    server = serve(reply_with(http_response("ok")))
    transport = make_http_transport(server)
    for _ in range(2):
        assert anyio.run(fetch, transport, backend=backend) == b"ok"
        assert server.peers[-1].closed_by_client.wait(2)
    gc.collect()
    assert server.connections == 2


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_two_tasks_may_close_a_transport_at_the_same_time(serve: Serve, backend: str) -> None:
    server = serve(reply_with(http_response("ok")))

    async def main() -> None:
        transport = make_http_transport(server)
        await fetch(transport)
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(transport.aclose)
        with pytest.raises(ConfigurationError, match="closed"):
            await fetch(transport)

    anyio.run(main, backend=backend)
    assert server.peers[0].closed_by_client.wait(2)


@system.needs_proc
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("transports", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_closed_transports_leave_no_file_descriptor(
    serve: Serve, backend: str, transports: int
) -> None:
    server = serve(reply_with(http_response("ok")))

    async def main() -> None:
        for _ in range(transports):
            transport = make_http_transport(server)
            await fetch(transport)
            await transport.aclose()

    anyio.run(main, backend=backend)
    gc.collect()
    for peer in server.peers:
        assert peer.closed_by_client.wait(2)
        peer.close()
    sockets_before = count_sockets()
    anyio.run(main, backend=backend)
    gc.collect()
    for peer in server.peers:
        peer.closed_by_client.wait(2)
        peer.close()
    assert count_sockets() <= sockets_before + 1


def test_base_urls_are_parsed_strictly() -> None:
    assert BaseURL.parse("http://gpu-box:8080/base/").path == "/base"
    assert BaseURL.parse("https://[::1]").authority == "[::1]"
    assert BaseURL.parse("http://bücher.test").host == "xn--bcher-kva.test"
    for url in (
        "gpu-box:8080",
        "ftp://x",
        "http://",
        "http://x:99999",
        "http://u:sk-secret@x",
        "http://x/?q=1",
        "http://x\r\ny",
        "http://a b",
        5,
    ):
        with pytest.raises(ConfigurationError) as caught:
            BaseURL.parse(url)  # type: ignore[arg-type]
        assert "sk-secret" not in str(caught.value)


def test_a_tls_context_is_shared_per_set_of_ca_certificates() -> None:
    first = context_for(None)
    assert context_for(None) is first
    assert first.verify_mode is ssl.CERT_REQUIRED
    assert first.check_hostname
    custom = ssl.create_default_context()
    assert context_for(custom) is custom
    with pytest.raises(ConfigurationError):
        context_for("/no/such/file.pem")
