"""A key is where it was given, and on the wire, and nowhere else: whatever a server quotes, and however somebody looks."""

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
from tests.chaos.fault import RUNNERS, Runner, _over, _public_trust
from tests.support.chat_backends import BACKENDS as CHATTING
from tests.support.image_backends import BACKENDS as DRAWING
from tests.support.loopback import Handler, Loopback, Peer, whole
from tests.support.recording_observer import RecordingObserver

pytestmark = pytest.mark.anyio
Serve = Callable[[Handler], Loopback]
KEY = "sk-live/0123+secret=word"
OTHER = "hunter/2+hunter/2"
ONCE = md.Retries(attempts=1)


def shapes(key: str) -> dict[str, str]:
    """How a server may quote a key."""
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
        "base64 behind a user": base64.b64encode(b"somebody:" + raw).decode(),
        "base64 behind Bearer": base64.b64encode(b"Bearer " + raw + b"\r\n").decode(),
        "base64 within JSON": base64.b64encode(json.dumps({"key": key}).encode()).decode(),
        "in a URL": f"https://user:{percent}@example.test/v1?key={percent}",
    }


def marks(key: str) -> list[str]:
    """What must stand nowhere: the key, and what of it shows in each shape."""
    raw, found = (
        key.encode(),
        [key, key[:12], quote(key, safe=""), quote(key), quote(key, safe="").lower()],
    )
    for before in range(3):
        found.append(base64.b64encode(bytes(before) + raw).decode()[4 : 4 + len(raw)])
    return found + [mark.replace("+", "-").replace("/", "_") for mark in found[-3:]]


MARKS = [*marks(KEY), *marks(OTHER)]


def assert_hidden(shown: str, where: str) -> None:
    for mark in MARKS:
        assert mark not in shown, f"{where}: …{shown[max(0, shown.index(mark) - 80) :][:200]}"


def tracebacks(error: BaseException | None) -> str:
    """With locals, as an error tracker shows them; the frames of tests apart, which know the key."""
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
    except Exception:  # of something half made
        return type(value).__name__


def judged(error: BaseException, where: str) -> None:
    assert isinstance(error, md.MajordomoError), where
    for name, look in {
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
        assert_hidden(look(error), f"{where}: {name}")


def bodies(words: str) -> list[bytes]:
    """Error bodies of all the shapes that backends have, with these words wherever words may stand."""
    nested = {
        "message": words,
        "type": words,
        "code": words,
        "param": words,
        "status": words,
        "metadata": {"raw": words},
    }
    deep = {
        "error": {
            **nested,
            "details": [{"@type": words, "reason": words, "metadata": {words: [words]}}, words],
        },
        "detail": words,
    }
    return [
        json.dumps({"error": words}).encode(),
        json.dumps(
            {
                "error": words,
                "message": words,
                "detail": [{"loc": ["header", words], "msg": words}],
                "errors": words,
            }
        ).encode(),
        json.dumps(deep).encode(),
        json.dumps([deep]).encode(),
        json.dumps(
            {
                "error": {**nested, "details": words},
                "node_errors": {"1": {"errors": [{"message": words, "details": words}]}},
            }
        ).encode(),
        json.dumps(
            {
                "type": "error",
                "error": {"type": words, "message": words},
                "request_id": words,
                "signin_url": words,
            }
        ).encode(),
        json.dumps({"src": words, "error": {"message": {"detail": words}}}).encode(),
        f"<html><title>{words}</title><h1>{words}</h1>".encode(),
        f"<html>{'x' * 380}{words}".encode(),
        words.encode(),
        b"x" * 60 + words.encode(),
        b"x" * 2035 + words.encode(),
        json.dumps({"error": {"message": "x" * 2035 + words}}).encode(),
    ]


class Quoting:
    """A handler that gives everybody `answer`."""

    answer = b""

    def __call__(self, peer: Peer) -> None:
        while peer.request() is not None:
            peer.send(self.answer)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """All that is logged, by whomever, at DEBUG."""
    caplog.set_level(logging.DEBUG)
    for name in ("majordomo", "httpcore", "httpcore2", "httpx", "httpx2"):
        caplog.set_level(logging.DEBUG, logger=name)
    return lambda: "\n".join(
        f"{record.getMessage()} {record.args!r} {record.exc_text or ''}"
        for record in caplog.records
    )


async def streamed(model: Any) -> None:
    async with model.stream("a") as stream:
        async for _ in stream:
            pass


def asks(provider: Any, backend: Any) -> dict[str, Callable[[], Any]]:
    if backend in DRAWING:
        model = provider.image_model(backend.model)
        return {
            "drawn": lambda: model.generate("a"),
            "shown": lambda: streamed(model),
            "listed": provider.models,
            "named": provider.server,
        }
    chat = provider.model(backend.model)
    found = {
        "said": lambda: chat.generate("a"),
        "heard": lambda: streamed(chat),
        "listed": provider.models,
    }
    try:
        embedding = provider.embedding_model("e")
    except md.UnsupportedError:
        return found
    return {**found, "embedded": lambda: embedding.embed("a")}


_MORE = {
    "openai": {"api": "responses"},
    "llamaswap sdapi": {"images": "sdapi"},
    "stablediffusion sdapi": {"api": "sdapi"},
    "stablediffusion openai": {"api": "openai"},
}


def keyed(backend: Any, url: str, **common: Any) -> Any:
    """This backend with our key: those of the tables have none, or their own."""
    made = backend.connect(url)
    more = _MORE.get(backend.name, {}) if backend in DRAWING or backend.name == "openai" else {}
    if backend in DRAWING and backend.name == "openai":
        more = {}
    return type(made)(
        base_url=made.address.origin + made.address.path,
        api_key=KEY,
        headers={"x-other": OTHER},
        **more,
        **common,
    )


EVERYBODY = [*CHATTING, *DRAWING]
everybody = pytest.mark.parametrize(
    "backend",
    EVERYBODY,
    ids=lambda backend: f"{'draw' if backend in DRAWING else 'chat'} {backend.name}",
)


def answers() -> list[tuple[int, bytes]]:
    words = " ".join(shapes(KEY).values()) + f" and {OTHER} {quote(OTHER, safe='')}"
    return [(status, body) for status in (200, 401, 429, 500) for body in bodies(words)] + [
        (200, body) for body in bodies(KEY)
    ]


@everybody
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_quoted_key_is_told_to_nobody(
    backend: Any, serve: Serve, logged: Callable[[], str]
) -> None:
    """The bodies take turns with the backends."""
    await nothing_shows(backend, serve, logged, answers()[EVERYBODY.index(backend) % 7 :: 7])


@everybody
@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_no_quoted_key_is_told_to_anybody(
    backend: Any, serve: Serve, logged: Callable[[], str]
) -> None:
    await nothing_shows(backend, serve, logged, answers())


async def nothing_shows(
    backend: Any, serve: Serve, logged: Callable[[], str], given: list[tuple[int, bytes]]
) -> None:
    """What observers were told, and the logs, are looked through at the end."""
    quoting, seen = Quoting(), RecordingObserver()
    server = serve(quoting)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        async with keyed(backend, server.url, retries=ONCE, observers=[seen]) as provider:
            for status, body in given:
                quoting.answer = whole(body, status)
                for name, ask in asks(provider, backend).items():
                    try:
                        await ask()
                    except Exception as error:
                        judged(error, f"{name} {status} {body!r:.80}")
            health = await provider.health()
            assert_hidden(f"{health!r} {health.error and health.error.to_dict()}", "health")
            assert_hidden(f"{provider!r} {provider} {vars(provider)}", "provider")
    assert_hidden(repr([str(one.message) for one in warned]), "warnings")
    assert_hidden(logged(), "logs")
    for name, thing in seen.events:
        assert_hidden(
            f"{thing!r} {getattr(thing, '__dict__', '')} {getattr(getattr(thing, 'error', None), '__dict__', '')}",
            name,
        )
    assert len(seen.events) > len(given)
    assert server.seen[0].headers["x-other"] == OTHER


@pytest.mark.parametrize(
    "runner",
    [runner for runner in RUNNERS if runner.loop == "asyncio"],
    ids=lambda runner: runner.carriage,
)
@pytest.mark.parametrize("key", [KEY, "back\\slash\\0123"])
def test_a_key_in_the_head_of_an_answer_shows_in_no_log(
    runner: Runner, key: str, serve: Serve, logged: Callable[[], str]
) -> None:
    """Which the HTTP library shows at DEBUG, all of it."""
    heads = [
        f"HTTP/1.1 200 {key}\r\nx-echo: {key}",
        f"HTTP/1.1 401 X\r\nwww-authenticate: Bearer {key}",
        f"HTTP/1.1 200 X\r\n{key}",
    ]

    async def story() -> None:
        for head in heads:
            server = serve(
                lambda peer, head=head: (
                    peer.request(),
                    peer.send(f"{head}\r\ncontent-length: 2\r\n\r\n{{}}".encode()),
                )
            )  # type: ignore[misc]
            carrier = (
                None
                if runner.own
                else importlib.import_module(runner.carriage).AsyncClient(
                    trust_env=False, verify=_public_trust()
                )
            )
            async with md.OpenAICompatible(
                server.url + "/v1", key, retries=ONCE, transport=carrier
            ) as provider:
                with pytest.raises(md.MajordomoError):
                    await provider.model("m").generate("a")
            if carrier is not None:
                await carrier.aclose()

    with _over(runner):
        anyio.run(story)
    assert "receive_response_headers" in logged() or not runner.own
    assert "***" in logged()
    assert key not in logged()
    assert key.replace("\\", "\\\\") not in logged()


@pytest.mark.parametrize(
    "runner",
    [runner for runner in RUNNERS if runner.loop == "asyncio"],
    ids=lambda runner: runner.carriage,
)
def test_broken_exchanges_show_no_key_over_any_carriage(
    runner: Runner, serve: Serve, logged: Callable[[], str]
) -> None:
    """In the middle of a request or an answer, where frames of the HTTP library are in the traceback."""
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
        lambda peer: peer.send(whole(b"", 302, {"location": "http://127.0.0.1:9/"})),
        lambda peer: peer.wait_for_close(),
    ]

    async def broken(fault: Callable[[Peer], object], streams: bool) -> None:
        server = serve(lambda peer: (peer.request(), fault(peer)))
        carrier = (
            None
            if runner.own
            else importlib.import_module(runner.carriage).AsyncClient(
                trust_env=False, verify=_public_trust()
            )
        )
        provider = md.OpenAICompatible(
            server.url + "/v1",
            KEY,
            retries=ONCE,
            timeout=0.3,
            headers={"x-other": OTHER},
            transport=carrier,
        )
        async with provider:
            model = provider.model("m")
            try:
                await (streamed(model) if streams else model.generate("a"))
            except Exception as error:
                judged(error, runner.id)
        if carrier is not None:
            await carrier.aclose()

    async def story() -> None:
        for fault in breaks:
            for streams in (False, True):
                await broken(fault, streams)

    with _over(runner):
        anyio.run(story)


@pytest.mark.parametrize(
    "make",
    [
        md.Anthropic,
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
def test_what_holds_a_key_gives_it_to_no_copy(make: Any) -> None:
    provider = make(base_url="http://127.0.0.1:9/v1", api_key=KEY, headers={"x-other": OTHER})
    things = [provider]
    for name in ("model", "image_model", "embedding_model"):
        try:
            things.append(getattr(provider, name)("m"))
        except md.UnsupportedError:
            continue
    for thing in things:
        assert_hidden(f"{thing!r} {thing} {vars(thing)}", "repr")
        for look in (pickle.dumps, copy.deepcopy, copy.copy):
            try:
                made = look(thing)
            except Exception as error:
                assert_hidden(f"{error!r} {vars(error)}", look.__name__)
            else:
                assert_hidden(
                    f"{made!r} {vars(made) if hasattr(made, '__dict__') else ''}", look.__name__
                )


async def test_a_recording_of_a_quoted_key_has_none(serve: Serve, tmp_path: Path) -> None:
    quoting = Quoting()
    server = serve(quoting)
    async with md.OpenAICompatible(
        server.url + "/v1", KEY, retries=ONCE, transport=Recorder(tmp_path)
    ) as provider:
        for number, body in enumerate(
            bodies(
                " ".join(
                    text
                    for name, text in shapes(KEY).items()
                    if " behind " not in name and "within" not in name
                )
            )
        ):
            quoting.answer = whole(
                body, (400, 500)[number % 2], {"x-request-id": KEY, "set-cookie": f"a={KEY}"}
            )
            with pytest.raises(md.MajordomoError) as caught:
                await provider.model("m").generate(f"{number}")
            judged(caught.value, f"{number}")
    kept = _texts(tmp_path)
    assert kept
    for name, text in kept.items():
        assert_hidden(text + name, name)


def _texts(folder: Path) -> dict[str, str]:
    return {
        path.name: path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("shape", shapes(KEY))
def test_a_redactor_knows_every_shape_whole_and_cut(shape: str) -> None:
    redact = Redactor([Secret(KEY)])
    text = shapes(KEY)[shape]
    assert_hidden(redact(f"see {text} there"), shape)
    assert redact(f"see {KEY[:9]}… there") == "see ***… there"
    assert redact("nothing to see… there") == "nothing to see… there"
    assert redact_details({"a": [{KEY: (KEY, 5, None)}]}, redact) == {
        "a": [{"***": ["***", 5, None]}]
    }


def test_no_secret_can_be_pickled_or_copied_out() -> None:
    secret = Secret(KEY)
    for look in (pickle.dumps, copy.deepcopy, copy.copy):
        with pytest.raises(TypeError):
            look(secret)
    assert_hidden(f"{secret!r} {secret} {secret:}", "secret")
