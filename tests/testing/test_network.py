"""Tests of `no_network`: it refuses connections of every library and restores everything."""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import anyio
import httpx
import pytest

import majordomo as md
from majordomo.testing import NetworkForbiddenError, Recorder, Replay, no_network
from majordomo.testing.network import Attempt, is_loopback
from tests.support.loopback import Handler, Loopback, chat_completion, http_response, reply_with

pytestmark = pytest.mark.anyio
Serve = Callable[[Handler], Loopback]
CONNECT_FUNCTIONS = ("connect", "connect_ex", "sendto", "sendmsg")


async def test_error_names_the_target_of_a_provider() -> None:
    with no_network() as network:
        for base_url, where in (
            ("https://api.openai.com/v1", "api.openai.com:443"),
            ("http://192.0.2.7:8080", "192.0.2.7:8080"),
        ):
            async with md.OpenAICompatible(base_url, api_key="k") as backend:
                with pytest.raises(NetworkForbiddenError, match=where) as caught:
                    await backend.model("m").generate("hi")
            assert f"{caught.value.host}:{caught.value.port}" == where
            assert not caught.value.retryable
            with (
                pytest.raises(NetworkForbiddenError),
                md.OpenAICompatible(base_url, api_key="k") as blocking,
            ):
                blocking.model("m").generate_sync("hi")
    assert [str(attempt) for attempt in network.forbidden] == ["api.openai.com:443"] * 2 + [
        "192.0.2.7:8080"
    ] * 2


def test_sockets_of_every_library_are_refused() -> None:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    attempts: list[tuple[Callable[[], object], Attempt]] = [
        (lambda: httpx.get("http://example.com/x"), Attempt("example.com", 80)),
        (lambda: httpx.get("http://192.0.2.1:81"), Attempt("192.0.2.1", 81)),
        (lambda: urllib.request.urlopen("https://example.org"), Attempt("example.org", 443)),
        (lambda: asyncio.run(asyncio.open_connection("192.0.2.1", 82)), Attempt("192.0.2.1", 82)),
        (
            lambda: anyio.run(anyio.connect_tcp, "example.com", 83, backend="trio"),
            Attempt("example.com", 83),
        ),
        (lambda: socket.create_connection(("127.0.0.1", 84)), Attempt("127.0.0.1", 84)),
        (lambda: socket.create_connection(("2001:db8::1", 85)), Attempt("2001:db8::1", 85)),
        (lambda: socket.socket().connect_ex(("192.0.2.1", 86)), Attempt("192.0.2.1", 86)),
        (lambda: udp.sendto(b"x", ("192.0.2.1", 53)), Attempt("192.0.2.1", 53)),
        (lambda: udp.sendto(b"x", 0, ("192.0.2.1", 54)), Attempt("192.0.2.1", 54)),
        (lambda: socket.gethostbyname("example.com"), Attempt("example.com")),
        (lambda: socket.getaddrinfo(b"example.com", "443"), Attempt("example.com", 443)),
        (lambda: socket.getaddrinfo("localhost", None), Attempt("localhost")),
    ]
    # Windows has no `sendmsg`.
    if hasattr(udp, "sendmsg"):
        attempts.append(
            (lambda: udp.sendmsg([b"x"], [], 0, ("192.0.2.1", 55)), Attempt("192.0.2.1", 55))
        )
    with no_network() as network:
        for number, (attempt, where) in enumerate(attempts):
            with pytest.raises(
                NetworkForbiddenError,
                match="network access is forbidden in this test; attempted to reach",
            ):
                attempt()
            assert network.forbidden[number:] == [where]
    udp.close()
    assert str(Attempt("2001:db8::1", 85)) == "[2001:db8::1]:85"


async def test_loopback_may_be_allowed(serve: Serve) -> None:
    server = serve(reply_with(http_response(chat_completion("hi"))))
    with no_network(allow_loopback=True) as network:
        for url in (server.url, server.url.replace("127.0.0.1", "localhost")):
            async with md.OpenAICompatible(url + "/v1") as backend:
                assert (await backend.model("m").generate("hi")).text == "hi"
        with pytest.raises(NetworkForbiddenError):
            socket.create_connection(("192.0.2.1", 80))
        with no_network() as inner, pytest.raises(NetworkForbiddenError):
            socket.create_connection(("127.0.0.1", server.port))
        socket.create_connection(("127.0.0.1", server.port)).close()
    assert len(network.forbidden) == len(inner.forbidden) == 1


async def test_replay_needs_no_network(serve: Serve, tmp_path: Path) -> None:
    server = serve(reply_with(http_response(chat_completion("hi"))))
    async with md.OpenAICompatible(server.url + "/v1", transport=Recorder(tmp_path)) as backend:
        await backend.model("m").generate("hi")
    with no_network() as network:
        async with md.OpenAICompatible(server.url + "/v1", transport=Replay(tmp_path)) as backend:
            assert (await backend.model("m").generate("hi")).text == "hi"
    assert network.forbidden == []


def test_socket_functions_are_restored_after_an_error() -> None:
    before = (
        {name: vars(socket.socket).get(name) for name in CONNECT_FUNCTIONS},
        socket.getaddrinfo,
        socket.gethostbyname,
    )
    with pytest.raises(ZeroDivisionError), no_network():
        assert socket.getaddrinfo is not before[1]
        raise ZeroDivisionError
    assert (
        {name: vars(socket.socket).get(name) for name in CONNECT_FUNCTIONS},
        socket.getaddrinfo,
        socket.gethostbyname,
    ) == before


def tcp_socketpair() -> tuple[socket.socket, socket.socket]:
    """Connect two sockets as Python does on Windows."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        return server.accept()[0], client


def test_connections_are_refused_where_sockets_have_no_sendmsg(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Socket:
        """A socket of Windows."""

    for name in ("connect", "connect_ex", "sendto"):
        setattr(Socket, name, lambda *_: None)
    monkeypatch.setattr(socket, "socket", Socket)
    with no_network():
        assert not hasattr(Socket, "sendmsg")


def test_event_loops_can_be_started_where_a_pair_of_sockets_uses_tcp(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "socketpair", tcp_socketpair)
    with no_network() as network, no_network():
        for backend in ("asyncio", "trio"):
            anyio.run(anyio.sleep, 0, backend=backend)
        assert network.forbidden == []
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            pytest.raises(NetworkForbiddenError),
        ):
            socket.create_connection(server.getsockname())
    assert socket.socketpair is tcp_socketpair


def test_asyncio_on_windows_is_refused_below_the_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """There, it connects with functions of the system instead of those of the socket."""
    calls: list[object] = []

    class Proactor:
        def connect(self, conn: socket.socket, address: object) -> None:
            calls.append(address)

        def sendto(
            self, conn: socket.socket, data: bytes, flags: int = 0, addr: object = None
        ) -> None:
            calls.append(addr)

    monkeypatch.setattr(asyncio, "IocpProactor", Proactor, raising=False)
    originals, proactor = dict(vars(Proactor)), Proactor()
    far, near = ("192.0.2.1", 82), ("127.0.0.1", 83)
    with no_network(allow_loopback=True) as network, socket.socket() as sock:
        for refused in (
            lambda: proactor.connect(sock, far),
            lambda: proactor.sendto(sock, b"x", 0, far),
            lambda: proactor.sendto(sock, b"x", addr=far),
        ):
            with pytest.raises(NetworkForbiddenError):
                refused()
        proactor.connect(sock, near)
        proactor.sendto(sock, b"x", addr=near)
        proactor.sendto(sock, b"x")
    assert network.forbidden == [Attempt(*far)] * 3
    assert calls == [near, near, None]
    assert dict(vars(Proactor)) == originals


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets")
def test_unix_sockets_and_local_servers_are_allowed(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with (
        no_network() as network,
        socket.socket(socket.AF_UNIX) as server,
        socket.socket(socket.AF_UNIX) as client,
    ):
        server.bind(path)
        server.listen()
        client.connect(path)
        one, two = socket.socketpair()
        one.sendmsg([b"x"])
        assert two.recv(1) == b"x"
        one.close()
        two.close()
        with socket.create_server(("127.0.0.1", 0)):
            assert socket.getaddrinfo(None, 80, flags=socket.AI_PASSIVE)
        assert asyncio.run(asyncio.sleep(0, "fine")) == "fine"
    assert network.forbidden == []


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", True),
        ("localhost", True),
        ("api.localhost.", True),
        ("fe80::1%eth0", False),
        ("10.0.0.1", False),
        ("localhost.example.com", False),
        ("", False),
    ],
)
def test_is_loopback_recognizes_addresses_of_this_machine(host: str, here: bool) -> None:
    assert is_loopback(host) is here


def test_network_error_can_be_pickled() -> None:
    error = NetworkForbiddenError("x", host="h", port=1)
    assert (pickle.loads(pickle.dumps(error)).host, pickle.loads(pickle.dumps(error)).port) == (
        "h",
        1,
    )


USER_TESTS = """
import socket
import pytest

def test_connection_is_refused(no_network):
    with pytest.raises(Exception, match="192.0.2.1:80"):
        socket.create_connection(("192.0.2.1", 80))
    assert [str(attempt) for attempt in no_network.forbidden] == ["192.0.2.1:80"]

def test_loopback_is_allowed(only_loopback):
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
    assert only_loopback.forbidden == []

@pytest.mark.usefixtures("no_network")
def test_forgotten_connection_fails():
    socket.create_connection(("example.com", 443))
"""


def test_pytest_loads_the_fixtures_from_the_entry_point(tmp_path: Path) -> None:
    (tmp_path / "test_others.py").write_text(USER_TESTS)
    disabled_plugins = [
        argument
        for name in ("cacheprovider", "hypothesispytest", "anyio", "pytest_cov")
        for argument in ("-p", f"no:{name}")
    ]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-W",
        "error",
        *disabled_plugins,
        str(tmp_path),
    ]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"}
    )
    assert "1 failed, 2 passed" in done.stdout, done.stdout + done.stderr
    assert (
        "NetworkForbiddenError: network access is forbidden in this test; "
        "attempted to reach example.com:443" in done.stdout
    )
