"""Tests of `Recorder`: exchanges over sockets are recorded, and replayed without the server."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import pytest

import majordomo as md
from majordomo import imagegen, llm
from majordomo.testing import Faults, Recorder, RecordingError, Refused, Replay, plain_image
from tests.servers.ollama_chat import OllamaChat
from tests.servers.ollama_chat import Reply as OllamaReply
from tests.support.image_backends import BACKENDS, Backend
from tests.support.loopback import (
    DONE,
    Handler,
    Loopback,
    Peer,
    chat_completion,
    delta,
    http_response,
    images_reply,
    reply_with,
)
from tests.support.wait_until import wait_until

pytestmark = pytest.mark.anyio
Serve = Callable[[Handler], Loopback]
KEY = "sk-a+key/of=mine9"
ONCE = md.Retries(attempts=1)


def compatible(url: str, transport: Any, **settings: Any) -> md.OpenAICompatible:
    return md.OpenAICompatible(url + "/v1", api_key=KEY, transport=transport, **settings)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def only_recording(folder: Path) -> Any:
    (path,) = folder.glob("*.json")
    return json.loads(path.read_text())


def recording_texts(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.glob("*.json"))


def never_answer(peer: Peer) -> None:
    peer.request()
    peer.wait_for_close()


async def collect_events(model: Any, prompt: Any, **overrides: Any) -> list[Any]:
    async with model.stream(prompt, **overrides) as stream:
        return [event async for event in stream]


async def test_chat_is_replayed_without_its_server(serve: Serve, tmp_path: Path) -> None:
    server = serve(reply_with(http_response(chat_completion("Grüße 🦊\u2028!"))))
    async with compatible(server.url, Recorder(tmp_path)) as backend:
        first = await backend.model("m").generate("hi", temperature=0.5)
    server.close()
    async with compatible(server.url, Replay(tmp_path)) as backend:
        again = await backend.model("m").generate("hi", temperature=0.5)
    assert again == first
    assert again.raw == first.raw
    with compatible(server.url, Replay(tmp_path)) as backend:
        assert backend.model("m").generate_sync("hi", temperature=0.5) == first


async def test_stream_is_replayed_in_chunks(serve: Serve, tmp_path: Path) -> None:
    sent = [
        delta("Good ") + delta("eve")[:30],
        delta("eve")[30:] + delta("ning"),
        delta({}, "stop") + DONE,
    ]

    def handler(peer: Peer) -> None:
        peer.request()
        peer.begin()
        for chunk in sent:
            peer.chunk(chunk)
        peer.end()

    server = serve(handler)
    async with compatible(server.url, Recorder(tmp_path)) as backend:
        first = await collect_events(backend.model("m"), "hi")
    server.close()
    response = only_recording(tmp_path)["response"]
    assert sum(map(int, response["chunks"].split())) == len(b"".join(sent))
    assert response["ended"] == "complete"
    assert "".join(response["body"]).encode() == b"".join(sent)
    for chunk_size in ("recorded", "body", 1, 7):
        async with compatible(server.url, Replay(tmp_path, chunk_size=chunk_size)) as backend:  # type: ignore[arg-type]
            assert await collect_events(backend.model("m"), "hi") == first
    with (
        compatible(server.url, Replay(tmp_path)) as backend,
        backend.model("m").stream_sync("hi") as blocking,
    ):
        assert list(blocking) == first


async def test_ollama_stream_is_replayed(serve: Serve, tmp_path: Path) -> None:
    backend = OllamaChat()
    backend.script = [OllamaReply("hello there", thinking="hm")]
    server = serve(backend)
    async with md.Ollama(server.url, transport=Recorder(tmp_path)) as provider:
        first = await collect_events(provider.model("llama3.2"), "hi")
        listed = await provider.models()
    server.close()
    async with md.Ollama(server.url, transport=Replay(tmp_path)) as provider:
        assert await collect_events(provider.model("llama3.2"), "hi") == first
        assert await provider.models() == listed
    assert any(isinstance(event, llm.TextDelta) for event in first)


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
async def test_every_image_backend_is_replayed(
    backend: Backend, serve: Serve, tmp_path: Path
) -> None:
    server = serve(backend.server())
    recorder = Recorder(tmp_path)
    async with backend.connect(server.url, transport=recorder) as provider:
        first = await provider.image_model(backend.model).generate("a red fox", **backend.fields)
    server.close()
    replay = Replay(tmp_path, chunk_size=1000)
    async with backend.connect(server.url, transport=replay) as provider:
        again = await provider.image_model(backend.model).generate("a red fox", **backend.fields)
    assert again.images == first.images
    assert again.details == first.details
    assert list((tmp_path / "images").iterdir())
    again_sync = Replay(tmp_path)
    with backend.connect(server.url, transport=again_sync) as provider:
        assert (
            provider.image_model(backend.model).generate_sync("a red fox", **backend.fields).images
            == first.images
        )


async def test_images_and_uploads_are_stored_once(
    serve: Serve, tmp_path: Path, image: Callable[..., md.ImagePart]
) -> None:
    generated, uploaded = image(40, 30), image(64, 64, "red")
    server = serve(reply_with(http_response(images_reply(generated.data, generated.data))))
    options: dict[str, Any] = {"images": [uploaded], "n": 2}
    async with md.OpenAI(KEY, base_url=server.url + "/v1", transport=Recorder(tmp_path)) as backend:
        first = await backend.image_model("gpt-image-1").generate("a hat", **options)
    server.close()
    stored = [path.read_bytes() for path in (tmp_path / "images").iterdir()]
    assert sorted(stored) == sorted([generated.data, uploaded.data])
    recording = only_recording(tmp_path)
    form = {field["name"]: field for field in recording["request"]["body"]["form"]}
    assert form["prompt"]["content"] == "a hat"
    assert next(field for name, field in form.items() if name.startswith("image"))[
        "content"
    ].startswith("<images/")
    assert "boundary" not in json.dumps(recording)
    async with md.OpenAI(
        "other-key", base_url=server.url + "/v1", transport=Replay(tmp_path)
    ) as backend:
        assert (
            await backend.image_model("gpt-image-1").generate("a hat", **options)
        ).images == first.images


async def test_images_of_a_chat_are_stored_as_files(serve: Serve, tmp_path: Path) -> None:
    question_image = plain_image()
    server = serve(reply_with(http_response(chat_completion("a blue one"))))
    async with compatible(server.url, Recorder(tmp_path)) as backend:
        await backend.model("m").generate([md.user("look", question_image)])
    assert [path.read_bytes() for path in (tmp_path / "images").iterdir()] == [question_image.data]
    assert question_image.to_base64() not in recording_texts(tmp_path)
    async with compatible(server.url, Replay(tmp_path)) as backend:
        assert (
            await backend.model("m").generate([md.user("look", question_image)])
        ).text == "a blue one"


KEY_FORMS = (
    KEY,
    quote(KEY, safe=""),
    base64.b64encode(KEY.encode()).decode(),
    base64.b64encode(b"majordomo:" + KEY.encode()).decode(),
)
OTHER_KEY = "sk-proj-0123456789abcdefghijKLMNOP"


async def test_secrets_are_not_recorded(serve: Serve, tmp_path: Path) -> None:
    text = f"keys: {' '.join(KEY_FORMS)} and {OTHER_KEY}, word: hunter-2-hunter"

    def handler(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            echo = {"x-api-key": KEY, "set-cookie": f"a={KEY}", "x-kept": f"for {KEY}"}
            if b'"stream":true' in request.body.replace(b" ", b""):
                peer.begin(headers=echo)
                event = delta(text, "stop")
                peer.chunk(event[: event.index(KEY.encode()) + 5])
                peer.chunk(event[event.index(KEY.encode()) + 5 :] + DONE)
                peer.end()
            elif b"fail" in request.body:
                peer.reply({"error": {"message": f"bad key {KEY}"}}, 401, echo)
            else:
                peer.reply(chat_completion(text), headers=echo)

    server = serve(handler)
    recorder = Recorder(tmp_path, secrets="hunter-2-hunter", headers=["X-Kept"])
    async with compatible(
        server.url, recorder, headers={"x-other": "Bearer other-token-12345"}
    ) as backend:
        model = backend.model(
            "m", md.with_extra({"path": "?api_key=" + KEY, "more": {"token": "other-token-12345"}})
        )
        assert KEY in (await model.generate(f"my key is {KEY}")).text
        await collect_events(model, f"my key is {KEY}")
        with pytest.raises(md.AuthenticationError):
            await model.generate("fail")
    paths = files(tmp_path)
    assert len(paths) == 3
    for path in paths:
        content = path.read_text() + path.name
        for secret in (
            *KEY_FORMS,
            OTHER_KEY,
            "hunter-2-hunter",
            "other-token-12345",
            json.dumps(KEY)[1:-1],
        ):
            assert secret not in content, path
        assert "cookie" not in content
        assert '"x-kept": "for ***"' in content
    replay = Replay(tmp_path, secrets="hunter-2-hunter")
    async with compatible(
        server.url, replay, headers={"x-other": "Bearer other-token-12345"}
    ) as backend:
        model = backend.model(
            "m", md.with_extra({"path": "?api_key=" + KEY, "more": {"token": "other-token-12345"}})
        )
        assert "keys: ***" in (await model.generate(f"my key is {KEY}")).text
        events = await collect_events(model, f"my key is {KEY}")
        assert "keys: ***" in events[-1].reply.text


async def test_secrets_in_a_query_are_not_recorded(tmp_path: Path) -> None:
    from majordomo.settings import LOCAL
    from majordomo.transport_types import Deadline, HTTPRequest

    class FakeTransport:
        status, headers = 200, {"content-type": "text/plain"}

        async def open(self, request: Any, deadline: Any) -> Any:
            return self

        async def read(self) -> bytes:
            return b""

        async def finish(self) -> None: ...

        async def aclose(self) -> None: ...

    for transport in (Recorder(tmp_path), Replay(tmp_path)):
        wrapped = transport.wrap(FakeTransport(), "/v1", str)
        reply = await wrapped.open(
            HTTPRequest("GET", "/models?key=abcdefgh&page=2&access_token=zzzz"), Deadline(LOCAL)
        )
        assert await reply.read() == b""
        await wrapped.aclose()
        with pytest.raises(md.ConfigurationError, match="closed"):
            await wrapped.open(HTTPRequest("GET", "/models"), Deadline(LOCAL))
    assert (
        only_recording(tmp_path)["request"]["path"] == "/v1/models?key=***&page=2&access_token=***"
    )


async def test_image_with_a_secret_is_not_recorded(serve: Serve, tmp_path: Path) -> None:
    generated = plain_image().data
    generated += KEY.encode()
    server = serve(reply_with(http_response(images_reply(generated))))
    async with md.OpenAI(KEY, base_url=server.url + "/v1", transport=Recorder(tmp_path)) as backend:
        with pytest.raises(RecordingError) as caught:
            await backend.image_model("gpt-image-1").generate("a hat")
    assert caught.value.code == "SECRET_IN_IMAGE"
    assert files(tmp_path) == []


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
async def test_error_status_is_replayed(serve: Serve, tmp_path: Path, status: int) -> None:
    server = serve(
        reply_with(http_response({"error": {"message": "so it is"}}, status, {"retry-after": "7"}))
    )
    errors = []
    for transport in (Recorder(tmp_path), Replay(tmp_path)):
        async with compatible(server.url, transport, retries=ONCE) as backend:
            with pytest.raises(md.MajordomoError) as caught:
                await backend.model("m").generate("hi")
        errors.append((type(caught.value), caught.value.to_dict()))
        server.close()
    assert errors[0] == errors[1]
    assert errors[0][1]["details"]["retry_after"] == 7.0


async def test_retries_are_replayed_in_order(serve: Serve, tmp_path: Path) -> None:
    server = serve(reply_with(http_response(b"", 502), http_response(chat_completion("at last"))))
    patient = md.Retries(attempts=2, initial_delay=0)
    for transport in (Recorder(tmp_path), Replay(tmp_path)):
        async with compatible(server.url, transport, retries=patient) as backend:
            assert (await backend.model("m").generate("hi")).text == "at last"
        server.close()
    assert [path.name[-7:] for path in files(tmp_path)] == ["-1.json", "-2.json"]


async def test_connection_failure_is_replayed(serve: Serve, tmp_path: Path) -> None:
    def cut_after_first_event(peer: Peer) -> None:
        peer.request()
        peer.begin()
        peer.chunk(delta("Good "))
        peer.close()

    server = serve(cut_after_first_event)
    for transport in (Recorder(tmp_path / "cut"), Replay(tmp_path / "cut")):
        async with compatible(server.url, transport, retries=ONCE) as backend:
            with pytest.raises(md.StreamBrokenError) as broken:
                await collect_events(backend.model("m"), "hi")
        assert broken.value.partial.text == "Good "
        server.close()
    for transport in (Recorder(tmp_path / "dead"), Replay(tmp_path / "dead")):
        async with compatible(server.url, transport, retries=ONCE) as backend:
            with pytest.raises(md.ConnectionFailedError) as caught:
                await backend.model("m").generate("hi")
        assert caught.value.details["sent"] is False
        assert caught.value.retryable
    assert "response" not in only_recording(tmp_path / "dead")


async def test_timeout_is_replayed(serve: Serve, tmp_path: Path) -> None:
    server = serve(never_answer)
    for transport in (Recorder(tmp_path), Replay(tmp_path)):
        async with compatible(
            server.url, transport, retries=ONCE, timeout=md.Timeout(first_byte=0.05)
        ) as backend:
            with pytest.raises(md.DeadlineExceededError) as caught:
                await backend.model("m").generate("hi")
        assert caught.value.phase == "first_byte"


async def test_abandoned_stream_is_recorded_up_to_its_end(serve: Serve, tmp_path: Path) -> None:
    def handler(peer: Peer) -> None:
        peer.request()
        peer.begin()
        peer.chunk(delta("Good "))
        peer.wait_for_close()

    server = serve(handler)
    for transport in (Recorder(tmp_path), Replay(tmp_path)):
        async with (
            compatible(server.url, transport) as backend,
            backend.model("m").stream("hi") as stream,
        ):
            async for event in stream:
                assert event == llm.TextDelta("Good ")
                break
    assert only_recording(tmp_path)["response"]["ended"] == "abandoned"
    async with compatible(server.url, Replay(tmp_path)) as backend:
        with pytest.raises(RecordingError, match="not read any further"):
            await collect_events(backend.model("m"), "hi")


async def test_cancelled_call_is_not_recorded(serve: Serve, tmp_path: Path) -> None:
    server = serve(never_answer)
    recorder = Recorder(tmp_path)
    async with compatible(server.url, recorder) as backend, anyio.create_task_group() as group:
        group.start_soon(backend.model("m").generate, "hi")
        await wait_until(lambda: server.requests)
        group.cancel_scope.cancel()
    assert files(tmp_path) == []
    assert recorder.unused == []
    async with compatible(
        serve(reply_with(http_response(chat_completion("hi")))).url, recorder
    ) as backend:
        await backend.model("m").generate("hi")
    assert [path.name[-7:] for path in files(tmp_path)] == ["-1.json"]


async def test_modes_once_replay_and_all(serve: Serve, tmp_path: Path) -> None:
    server = serve(
        reply_with(*(http_response(chat_completion(f"answer {number}")) for number in range(1, 9)))
    )

    async def generate_texts(mode: Any, *prompts: str) -> list[str]:
        async with compatible(server.url, Recorder(tmp_path, mode=mode)) as backend:
            return [(await backend.model("m").generate(prompt)).text for prompt in prompts]

    assert await generate_texts("once", "a", "a") == ["answer 1", "answer 2"]
    assert await generate_texts("once", "a", "b", "a", "a") == [
        "answer 1",
        "answer 3",
        "answer 2",
        "answer 4",
    ]
    assert await generate_texts("replay", "b", "a") == ["answer 3", "answer 1"]
    assert await generate_texts("all", "a") == ["answer 5"]
    assert len(files(tmp_path)) == 2
    assert await generate_texts("replay", "a", "b") == ["answer 5", "answer 3"]
    assert len(server.requests) == 5
    with pytest.raises(md.ConfigurationError, match="mode"):
        Recorder(tmp_path, mode="never")  # type: ignore[arg-type]


async def test_equal_exchanges_give_equal_files(serve: Serve, tmp_path: Path) -> None:
    texts = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        server = serve(reply_with(http_response(chat_completion("hi"))))
        async with compatible(server.url, Recorder(folder)) as backend:
            for prompt in ("b", "a"):
                await backend.model("m").generate([md.user(prompt, plain_image())])
        texts.append([(path.relative_to(folder), path.read_bytes()) for path in files(folder)])
    assert texts[0] == texts[1]
    assert not [path for path in files(tmp_path) if path.name.startswith(".")]


async def test_recorder_wraps_httpx_transports_and_faults(
    tmp_path: Path,
) -> None:
    import httpx

    httpx_transport = httpx.MockTransport(
        lambda request: httpx.Response(200, json=chat_completion("foreign"))
    )
    recorder = Recorder(tmp_path, Faults([Refused()], httpx_transport))
    async with compatible(
        "http://backend.test", recorder, retries=md.Retries(attempts=2, initial_delay=0)
    ) as backend:
        assert (await backend.model("m").generate("hi")).text == "foreign"
    assert len(files(tmp_path)) == 2
    with pytest.raises(md.ConfigurationError, match="transport"):
        compatible("http://x", Recorder(tmp_path, object()))
    with pytest.raises(md.ConfigurationError, match="tls and proxy"):
        compatible("http://x", Recorder(tmp_path, httpx_transport), proxy="http://x")


async def test_websocket_is_refused_and_images_arrive_over_http(
    serve: Serve, tmp_path: Path
) -> None:
    (backend,) = [backend for backend in BACKENDS if backend.name == "comfyui"]
    server = serve(backend.server())
    async with backend.connect(server.url, transport=Recorder(tmp_path)) as provider:
        connect = provider._client.transport.connect
        with pytest.raises(md.UnsupportedError, match="no websockets"):
            await connect("/ws", None, 1)
        events = await collect_events(
            provider.image_model(backend.model), "a red fox", previews=1, **backend.fields
        )
    assert isinstance(events[-1], imagegen.Done)
