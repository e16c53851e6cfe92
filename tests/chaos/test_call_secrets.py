"""A key is in the provider and in requests, and nowhere else, whatever a server quotes."""

from __future__ import annotations

import base64
import copy
import importlib
import json
import logging
import pickle
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import pytest

import majordomo as md
from majordomo.redaction import Redactor, Secret, redact_details
from majordomo.testing import Recorder
from tests.chaos.fault import RUNNERS, Runner, _default_tls, _use_library
from tests.support.chat_backends import BACKENDS as CHAT_BACKENDS
from tests.support.image_backends import BACKENDS as IMAGE_BACKENDS
from tests.support.loopback import Handler, Loopback, Peer, http_response
from tests.support.recording_observer import RecordingObserver

pytestmark = pytest.mark.anyio
Serve = Callable[[Handler], Loopback]
KEY = "sk-live/0123+secret=word"
OTHER = "hunter/2+hunter/2"
ONCE = md.Retries(attempts=1)


def shapes(key: str) -> dict[str, str]:
    """Return the encodings in which a server may quote a key."""
    raw = key.encode()
    percent = quote(key, safe="")
    return {
        "as it is": key,
        "in a header": f"Authorization: Bearer {key}",
        "percent-encoded": percent,
        "percent-encoded as a path": quote(key),
        "percent-encoded in small letters": percent.replace("%2F", "%2f")
        .replace("%2B", "%2b")
        .replace("%3D", "%3d"),
        "base64": base64.b64encode(raw).decode(),
        "base64 for URLs": base64.urlsafe_b64encode(raw).decode(),
        "base64 without padding": base64.b64encode(raw).decode().rstrip("="),
        "base64 after a user name": base64.b64encode(b"user:" + raw).decode(),
        "base64 after Bearer": base64.b64encode(b"Bearer " + raw + b"\r\n").decode(),
        "base64 within JSON": base64.b64encode(json.dumps({"key": key}).encode()).decode(),
        "in a URL": f"https://user:{percent}@example.test/v1?key={percent}",
    }


def marks(key: str) -> list[str]:
    """Return what must appear nowhere: the key, and its recognizable part in each encoding."""
    raw, fragments = (
        key.encode(),
        [key, key[:12], quote(key, safe=""), quote(key), quote(key, safe="").lower()],
    )
    for before in range(3):
        fragments.append(base64.b64encode(bytes(before) + raw).decode()[4 : 4 + len(raw)])
    return fragments + [mark.replace("+", "-").replace("/", "_") for mark in fragments[-3:]]


MARKS = [*marks(KEY), *marks(OTHER)]


def assert_hidden(text: str, where: str) -> None:
    for mark in MARKS:
        assert mark not in text, f"{where}: …{text[max(0, text.index(mark) - 80) :][:200]}"


def tracebacks(error: BaseException | None) -> str:
    """Return tracebacks with locals, as an error tracker shows them.

    Frames of tests are left out, because they contain the key.
    """
    text = []
    while error is not None:
        text.append(repr(error))
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if "/tests/" not in frame.f_code.co_filename:
                text += [
                    f"{frame.f_code.co_qualname} {name}={_repr(value)}"
                    for name, value in frame.f_locals.items()
                ]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n".join(text)


def _repr(value: object) -> str:
    try:
        return repr(value)
    # The object may be half initialized.
    except Exception:
        return type(value).__name__


def check_error(error: BaseException, where: str) -> None:
    assert isinstance(error, md.MajordomoError), where
    for name, inspect_value in {
        "repr": repr,
        "str": str,
        "to_dict": lambda error: json.dumps(error.to_dict()) + str(error.to_dict()),
        "pickle": lambda error: (
            repr(pickle.dumps(error)) + repr(vars(pickle.loads(pickle.dumps(error))))
        ),
        "copy": lambda error: repr(vars(copy.copy(error))),
        "deepcopy": lambda error: repr(vars(copy.deepcopy(error))),
        "traceback": tracebacks,
        "partial": lambda error: repr(getattr(error, "partial", "")),
        "notes": lambda error: repr(getattr(error, "__notes__", "")),
    }.items():
        assert_hidden(inspect_value(error), f"{where}: {name}")


def bodies(text: str) -> list[bytes]:
    """Return error bodies in all formats of the backends, with the text in every field."""
    nested = {
        "message": text,
        "type": text,
        "code": text,
        "param": text,
        "status": text,
        "metadata": {"raw": text},
    }
    deep = {
        "error": {
            **nested,
            "details": [{"@type": text, "reason": text, "metadata": {text: [text]}}, text],
        },
        "detail": text,
    }
    return [
        json.dumps({"error": text}).encode(),
        json.dumps(
            {
                "error": text,
                "message": text,
                "detail": [{"loc": ["header", text], "msg": text}],
                "errors": text,
            }
        ).encode(),
        json.dumps(deep).encode(),
        json.dumps([deep]).encode(),
        json.dumps(
            {
                "error": {**nested, "details": text},
                "node_errors": {"1": {"errors": [{"message": text, "details": text}]}},
            }
        ).encode(),
        json.dumps(
            {
                "type": "error",
                "error": {"type": text, "message": text},
                "request_id": text,
                "signin_url": text,
            }
        ).encode(),
        json.dumps({"src": text, "error": {"message": {"detail": text}}}).encode(),
        f"<html><title>{text}</title><h1>{text}</h1>".encode(),
        f"<html>{'x' * 380}{text}".encode(),
        text.encode(),
        b"x" * 60 + text.encode(),
        b"x" * 2035 + text.encode(),
        json.dumps({"error": {"message": "x" * 2035 + text}}).encode(),
    ]


class QuotingServer:
    """A server that answers every request with `answer`."""

    answer = b""

    def __call__(self, peer: Peer) -> None:
        while peer.request() is not None:
            peer.send(self.answer)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """Return everything logged at DEBUG by any logger."""
    caplog.set_level(logging.DEBUG)
    for name in ("majordomo", "httpcore", "httpcore2", "httpx", "httpx2"):
        caplog.set_level(logging.DEBUG, logger=name)
    return lambda: "\n".join(
        f"{record.getMessage()} {record.args!r} {record.exc_text or ''}"
        for record in caplog.records
    )


async def read_stream(model: Any) -> None:
    async with model.stream("a") as stream:
        async for _ in stream:
            pass


def calls_of(provider: Any, backend: Any) -> dict[str, Callable[[], Any]]:
    if backend in IMAGE_BACKENDS:
        model = provider.image_model(backend.model)
        return {
            "image": lambda: model.generate("a"),
            "image stream": lambda: read_stream(model),
            "models": provider.models,
            "server": provider.server,
        }
    chat = provider.model(backend.model)
    calls = {
        "reply": lambda: chat.generate("a"),
        "stream": lambda: read_stream(chat),
        "models": provider.models,
    }
    try:
        embedding = provider.embedding_model("e")
    except md.UnsupportedError:
        return calls
    return {**calls, "embedding": lambda: embedding.embed("a")}


_SETTINGS = {
    "openai": {"api": "responses"},
    "llamaswap sdapi": {"images": "sdapi"},
    "stablediffusion sdapi": {"api": "sdapi"},
    "stablediffusion openai": {"api": "openai"},
}


def with_key(backend: Any, url: str, **common: Any) -> Any:
    """Create the backend's provider with the test's key."""
    provider = backend.connect(url)
    more = (
        _SETTINGS.get(backend.name, {})
        if backend in IMAGE_BACKENDS or backend.name == "openai"
        else {}
    )
    if backend in IMAGE_BACKENDS and backend.name == "openai":
        more = {}
    return type(provider)(
        base_url=provider.address.origin + provider.address.path,
        api_key=KEY,
        headers={"x-other": OTHER},
        **more,
        **common,
    )


ALL_BACKENDS = [*CHAT_BACKENDS, *IMAGE_BACKENDS]
all_backends = pytest.mark.parametrize(
    "backend",
    ALL_BACKENDS,
    ids=lambda backend: f"{'draw' if backend in IMAGE_BACKENDS else 'chat'} {backend.name}",
)


def answers() -> list[tuple[int, bytes]]:
    text = " ".join(shapes(KEY).values()) + f" and {OTHER} {quote(OTHER, safe='')}"
    return [(status, body) for status in (200, 401, 429, 500) for body in bodies(text)] + [
        (200, body) for body in bodies(KEY)
    ]


@all_backends
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_quoted_key_is_hidden(backend: Any, serve: Serve, logged: Callable[[], str]) -> None:
    """Each backend gets every seventh body."""
    await check_hidden(backend, serve, logged, answers()[ALL_BACKENDS.index(backend) % 7 :: 7])


@all_backends
@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_quoted_key_is_hidden_in_every_response(
    backend: Any, serve: Serve, logged: Callable[[], str]
) -> None:
    await check_hidden(backend, serve, logged, answers())


async def check_hidden(
    backend: Any, serve: Serve, logged: Callable[[], str], responses: list[tuple[int, bytes]]
) -> None:
    """Check errors at once, and observers, warnings and logs at the end."""
    quoting_server, observer = QuotingServer(), RecordingObserver()
    server = serve(quoting_server)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        async with with_key(backend, server.url, retries=ONCE, observers=[observer]) as provider:
            for status, body in responses:
                quoting_server.answer = http_response(body, status)
                for name, call in calls_of(provider, backend).items():
                    try:
                        await call()
                    except Exception as error:
                        check_error(error, f"{name} {status} {body!r:.80}")
            health = await provider.health()
            assert_hidden(f"{health!r} {health.error and health.error.to_dict()}", "health")
            assert_hidden(f"{provider!r} {provider} {vars(provider)}", "provider")
    assert_hidden(repr([str(warning.message) for warning in warned]), "warnings")
    assert_hidden(logged(), "logs")
    for name, value in observer.events:
        error = getattr(value, "error", None)
        attributes = f"{getattr(value, '__dict__', '')} {getattr(error, '__dict__', '')}"
        assert_hidden(f"{value!r} {attributes}", name)
    assert len(observer.events) > len(responses)
    assert OTHER in [request.headers.get("x-other") for request in server.requests]


@pytest.mark.parametrize(
    "runner",
    [runner for runner in RUNNERS if runner.loop == "asyncio"],
    ids=lambda runner: runner.library,
)
@pytest.mark.parametrize("key", [KEY, "back\\slash\\0123"])
def test_key_in_response_headers_is_in_no_log(
    runner: Runner, key: str, serve: Serve, logged: Callable[[], str]
) -> None:
    """At DEBUG, httpx logs all headers. Our own transport logs the status alone."""
    heads = [
        f"HTTP/1.1 200 {key}\r\nx-echo: {key}",
        f"HTTP/1.1 401 X\r\nwww-authenticate: Bearer {key}",
        f"HTTP/1.1 200 X\r\n{key}",
    ]

    async def run_calls() -> None:
        for head in heads:
            server = serve(
                lambda peer, head=head: (
                    peer.request(),
                    peer.send(f"{head}\r\ncontent-length: 2\r\n\r\n{{}}".encode()),
                )
            )  # type: ignore[misc]
            client = (
                None
                if runner.own
                else importlib.import_module(runner.library).AsyncClient(
                    trust_env=False, verify=_default_tls()
                )
            )
            async with md.OpenAICompatible(
                server.url + "/v1", api_key=key, retries=ONCE, transport=client
            ) as provider:
                with pytest.raises(md.MajordomoError):
                    await provider.model("m").generate("a")
            if client is not None:
                await client.aclose()

    with _use_library(runner):
        anyio.run(run_calls)
    for text in ["-> 401"] if runner.own else ["receive_response_headers", "***"]:
        assert text in logged()
    assert key not in logged()
    assert key.replace("\\", "\\\\") not in logged()


@pytest.mark.parametrize(
    "runner",
    [runner for runner in RUNNERS if runner.loop == "asyncio"],
    ids=lambda runner: runner.library,
)
def test_broken_connections_show_no_key_over_any_http_library(
    runner: Runner, serve: Serve, logged: Callable[[], str]
) -> None:
    """Break during a request or response, so that the traceback has frames of the HTTP library."""
    breaks: list[Callable[[Peer], object]] = [
        Peer.reset,
        Peer.close,
        lambda peer: peer.send(f"{KEY}\r\n\r\n".encode()),
        lambda peer: peer.send(f"HTTP/1.1 200 {KEY}\r\ncontent-length: x\r\n\r\n".encode()),
        lambda peer: peer.send(f"HTTP/1.1 200 X\r\n{KEY}\r\n\r\n".encode()),
        lambda peer: peer.send(
            b"HTTP/1.1 200 X\r\ncontent-encoding: "
            + KEY.encode()
            + b"\r\ncontent-length: 2\r\n\r\n{}"
        ),
        lambda peer: (peer.begin(), peer.chunk(b"data: " + KEY.encode()), peer.reset()),
        lambda peer: (
            peer.begin(),
            peer.chunk(b'data: {"error": {"message": "' + KEY.encode() + b'"}}\n\n'),
            peer.end(),
        ),
        lambda peer: peer.send(http_response(b"", 302, {"location": "http://127.0.0.1:9/"})),
        lambda peer: peer.wait_for_close(),
    ]

    async def broken(fault: Callable[[Peer], object], streams: bool) -> None:
        server = serve(lambda peer: (peer.request(), fault(peer)))
        client = (
            None
            if runner.own
            else importlib.import_module(runner.library).AsyncClient(
                trust_env=False, verify=_default_tls()
            )
        )
        provider = md.OpenAICompatible(
            server.url + "/v1",
            api_key=KEY,
            retries=ONCE,
            timeout=0.3,
            headers={"x-other": OTHER},
            transport=client,
        )
        async with provider:
            model = provider.model("m")
            try:
                await (read_stream(model) if streams else model.generate("a"))
            except Exception as error:
                check_error(error, runner.id)
        if client is not None:
            await client.aclose()

    async def run_calls() -> None:
        for fault in breaks:
            for streams in (False, True):
                await broken(fault, streams)

    with _use_library(runner):
        anyio.run(run_calls)


@pytest.mark.parametrize(
    "make",
    [
        md.Anthropic,
        md.Fal,
        md.OpenAI,
        md.OpenAICompatible,
        md.Gemini,
        md.Ollama,
        md.LlamaSwap,
        md.StableDiffusion,
        md.Automatic1111,
        md.ComfyUI,
    ],
    ids=lambda make: make.name,
)
def test_copies_and_pickles_have_no_key(make: Any) -> None:
    provider = make(base_url="http://127.0.0.1:9/v1", api_key=KEY, headers={"x-other": OTHER})
    objects = [provider]
    for name in ("model", "image_model", "embedding_model"):
        try:
            objects.append(getattr(provider, name)("m"))
        except md.UnsupportedError:
            continue
    for value in objects:
        assert_hidden(f"{value!r} {value} {vars(value)}", "repr")
        for inspect_value in (pickle.dumps, copy.deepcopy, copy.copy):
            try:
                provider = inspect_value(value)
            except Exception as error:
                assert_hidden(f"{error!r} {vars(error)}", inspect_value.__name__)
            else:
                assert_hidden(
                    f"{provider!r} {vars(provider) if hasattr(provider, '__dict__') else ''}",
                    inspect_value.__name__,
                )


async def test_recording_has_no_quoted_key(serve: Serve, tmp_path: Path) -> None:
    quoting_server = QuotingServer()
    server = serve(quoting_server)
    async with md.OpenAICompatible(
        server.url + "/v1", api_key=KEY, retries=ONCE, transport=Recorder(tmp_path)
    ) as provider:
        for number, body in enumerate(
            bodies(
                " ".join(
                    text
                    for name, text in shapes(KEY).items()
                    if " after " not in name and "within" not in name
                )
            )
        ):
            quoting_server.answer = http_response(
                body, (400, 500)[number % 2], {"x-request-id": KEY, "set-cookie": f"a={KEY}"}
            )
            with pytest.raises(md.MajordomoError) as caught:
                await provider.model("m").generate(f"{number}")
            check_error(caught.value, f"{number}")
    recorded = _read_files(tmp_path)
    assert recorded
    for name, text in recorded.items():
        assert_hidden(text + name, name)


def _read_files(folder: Path) -> dict[str, str]:
    return {
        path.name: path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("shape", shapes(KEY))
def test_redactor_removes_every_encoding_and_cut_keys(shape: str) -> None:
    redact = Redactor([Secret(KEY)])
    text = shapes(KEY)[shape]
    assert_hidden(redact(f"see {text} there"), shape)
    assert redact(f"see {KEY[:9]}… there") == "see ***… there"
    assert redact("nothing to see… there") == "nothing to see… there"
    assert redact_details({"a": [{KEY: (KEY, 5, None)}]}, redact) == {
        "a": [{"***": ["***", 5, None]}]
    }


def test_secret_cannot_be_pickled_or_copied() -> None:
    secret = Secret(KEY)
    for inspect_value in (pickle.dumps, copy.deepcopy, copy.copy):
        with pytest.raises(TypeError):
            inspect_value(secret)
    assert_hidden(f"{secret!r} {secret} {secret:}", "secret")
