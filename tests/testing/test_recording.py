"""Real exchanges over sockets, kept in a folder; the server is closed, and everything comes again."""

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
from tests.servers.ollama_chat import Reply as Said
from tests.support.image_backends import BACKENDS, Backend
from tests.support.loopback import (
    DONE,
    Handler,
    Loopback,
    Peer,
    always,
    chat,
    delta,
    images_reply,
    whole,
)

pytestmark = pytest.mark.anyio
Serve = Callable[[Handler], Loopback]
KEY = "sk-a+key/of=mine9"
ONCE = md.Retries(attempts=1)


def compatible(url: str, transport: Any, **settings: Any) -> md.OpenAICompatible:
    return md.OpenAICompatible(url + "/v1", api_key=KEY, transport=transport, **settings)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def document(folder: Path) -> Any:
    (path,) = folder.glob("*.json")
    return json.loads(path.read_text())


def kept_texts(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.glob("*.json"))


def silent(peer: Peer) -> None:
    peer.request()
    peer.wait_for_close()


async def heard(model: Any, prompt: Any, **overrides: Any) -> list[Any]:
    async with model.stream(prompt, **overrides) as stream:
        return [event async for event in stream]


async def test_a_chat_comes_again_without_its_server(serve: Serve, tmp_path: Path) -> None:
    server = serve(always(whole(chat("Grüße 🦊\u2028!"))))
    async with compatible(server.url, Recorder(tmp_path)) as backend:
        first = await backend.model("m").generate("hi", temperature=0.5)
    server.close()
    async with compatible(server.url, Replay(tmp_path)) as backend:
        again = await backend.model("m").generate("hi", temperature=0.5)
    assert again == first
    assert again.raw == first.raw
    with compatible(server.url, Replay(tmp_path)) as backend:
        assert backend.model("m").generate_sync("hi", temperature=0.5) == first


async def test_a_stream_comes_again_piece_by_piece(serve: Serve, tmp_path: Path) -> None:
    sent = [
        delta("Good ") + delta("eve")[:30],
        delta("eve")[30:] + delta("ning"),
        delta({}, "stop") + DONE,
    ]

    def handler(peer: Peer) -> None:
        peer.request()
        peer.begin()
        for piece in sent:
            peer.chunk(piece)
        peer.end()

    server = serve(handler)
    async with compatible(server.url, Recorder(tmp_path)) as backend:
        first = await heard(backend.model("m"), "hi")
    server.close()
    answer = document(tmp_path)["answer"]
    assert sum(map(int, answer["pieces"].split())) == len(b"".join(sent))
    assert answer["ended"] == "whole"
    assert "".join(answer["body"]).encode() == b"".join(sent)
    for pieces in ("recorded", "whole", 1, 7):
        async with compatible(server.url, Replay(tmp_path, pieces=pieces)) as backend:  # type: ignore[arg-type]
            assert await heard(backend.model("m"), "hi") == first
    with (
        compatible(server.url, Replay(tmp_path)) as backend,
        backend.model("m").stream_sync("hi") as blocking,
    ):
        assert list(blocking) == first


async def test_ollama_lines_come_again(serve: Serve, tmp_path: Path) -> None:
    backend = OllamaChat()
    backend.script = [Said("hello there", thinking="hm")]
    server = serve(backend)
    async with md.Ollama(server.url, transport=Recorder(tmp_path)) as provider:
        first = await heard(provider.model("llama3.2"), "hi")
        listed = await provider.models()
    server.close()
    async with md.Ollama(server.url, transport=Replay(tmp_path)) as provider:
        assert await heard(provider.model("llama3.2"), "hi") == first
        assert await provider.models() == listed
    assert any(isinstance(event, llm.TextDelta) for event in first)


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
async def test_every_image_backend_comes_again(
    backend: Backend, serve: Serve, tmp_path: Path
) -> None:
    server = serve(backend.server())
    recorder = Recorder(tmp_path)
    async with backend.connect(server.url, transport=recorder) as provider:
        first = await provider.image_model(backend.model).generate("a red fox", **backend.fields)
    server.close()
    replay = Replay(tmp_path, pieces=1000)
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


async def test_images_are_kept_once_and_uploads_too(
    serve: Serve, tmp_path: Path, image: Callable[..., md.ImagePart]
) -> None:
    drawn, given = image(40, 30), image(64, 64, "red")
    server = serve(always(whole(images_reply(drawn.data, drawn.data))))
    ask: dict[str, Any] = {"images": [given], "n": 2}
    async with md.OpenAI(KEY, base_url=server.url + "/v1", transport=Recorder(tmp_path)) as backend:
        first = await backend.image_model("gpt-image-1").generate("a hat", **ask)
    server.close()
    kept = [path.read_bytes() for path in (tmp_path / "images").iterdir()]
    assert sorted(kept) == sorted([drawn.data, given.data])
    told = document(tmp_path)
    form = {field["name"]: field for field in told["request"]["body"]["form"]}
    assert form["prompt"]["content"] == "a hat"
    assert next(field for name, field in form.items() if name.startswith("image"))[
        "content"
    ].startswith("<images/")
    assert "boundary" not in json.dumps(told)
    async with md.OpenAI(
        "other-key", base_url=server.url + "/v1", transport=Replay(tmp_path)
    ) as backend:
        assert (
            await backend.image_model("gpt-image-1").generate("a hat", **ask)
        ).images == first.images


async def test_images_in_a_chat_are_kept_as_files(serve: Serve, tmp_path: Path) -> None:
    shown = plain_image()
    server = serve(always(whole(chat("a blue one"))))
    async with compatible(server.url, Recorder(tmp_path)) as backend:
        await backend.model("m").generate([md.user("look", shown)])
    assert [path.read_bytes() for path in (tmp_path / "images").iterdir()] == [shown.data]
    assert shown.to_base64() not in kept_texts(tmp_path)
    async with compatible(server.url, Replay(tmp_path)) as backend:
        assert (await backend.model("m").generate([md.user("look", shown)])).text == "a blue one"


SHAPES = (
    KEY,
    quote(KEY, safe=""),
    base64.b64encode(KEY.encode()).decode(),
    base64.b64encode(b"majordomo:" + KEY.encode()).decode(),
)
OTHERS = "sk-proj-0123456789abcdefghijKLMNOP"


async def test_no_key_gets_into_a_file(serve: Serve, tmp_path: Path) -> None:
    text = f"keys: {' '.join(SHAPES)} and {OTHERS}, word: hunter-2-hunter"

    def handler(peer: Peer) -> None:
        while (seen := peer.request()) is not None:
            echo = {"x-api-key": KEY, "set-cookie": f"a={KEY}", "x-kept": f"for {KEY}"}
            if b'"stream":true' in seen.body.replace(b" ", b""):
                peer.begin(headers=echo)
                event = delta(text, "stop")
                peer.chunk(event[: event.index(KEY.encode()) + 5])
                peer.chunk(event[event.index(KEY.encode()) + 5 :] + DONE)
                peer.end()
            elif b"fail" in seen.body:
                peer.reply({"error": {"message": f"bad key {KEY}"}}, 401, echo)
            else:
                peer.reply(chat(text), headers=echo)

    server = serve(handler)
    recorder = Recorder(tmp_path, secrets="hunter-2-hunter", headers=["X-Kept"])
    async with compatible(
        server.url, recorder, headers={"x-other": "Bearer other-token-12345"}
    ) as backend:
        model = backend.model(
            "m", md.with_extra({"path": "?api_key=" + KEY, "more": {"token": "other-token-12345"}})
        )
        assert KEY in (await model.generate(f"my key is {KEY}")).text
        await heard(model, f"my key is {KEY}")
        with pytest.raises(md.AuthenticationError):
            await model.generate("fail")
    kept = files(tmp_path)
    assert len(kept) == 3
    for path in kept:
        found = path.read_text() + path.name
        for secret in (
            *SHAPES,
            OTHERS,
            "hunter-2-hunter",
            "other-token-12345",
            json.dumps(KEY)[1:-1],
        ):
            assert secret not in found, path
        assert "cookie" not in found
        assert '"x-kept": "for ***"' in found
    replay = Replay(tmp_path, secrets="hunter-2-hunter")
    async with compatible(
        server.url, replay, headers={"x-other": "Bearer other-token-12345"}
    ) as backend:
        model = backend.model(
            "m", md.with_extra({"path": "?api_key=" + KEY, "more": {"token": "other-token-12345"}})
        )
        assert "keys: ***" in (await model.generate(f"my key is {KEY}")).text
        events = await heard(model, f"my key is {KEY}")
        assert "keys: ***" in events[-1].reply.text


async def test_keys_in_a_query_are_not_kept(tmp_path: Path) -> None:
    from majordomo.settings import LOCAL
    from majordomo.transport_types import Deadline, HTTPRequest

    class Port:
        status, headers = 200, {"content-type": "text/plain"}

        async def open(self, request: Any, deadline: Any) -> Any:
            return self

        async def read(self) -> bytes:
            return b""

        async def finish(self) -> None: ...

        async def aclose(self) -> None: ...

    for transport in (Recorder(tmp_path), Replay(tmp_path)):
        port = transport.wrap(Port(), "/v1", str)
        reply = await port.open(
            HTTPRequest("GET", "/models?key=abcdefgh&page=2&access_token=zzzz"), Deadline(LOCAL)
        )
        assert await reply.read() == b""
        await port.aclose()
        with pytest.raises(md.ConfigurationError, match="closed"):
            await port.open(HTTPRequest("GET", "/models"), Deadline(LOCAL))
    assert document(tmp_path)["request"]["path"] == "/v1/models?key=***&page=2&access_token=***"


async def test_an_image_that_holds_a_key_is_not_kept(serve: Serve, tmp_path: Path) -> None:
    drawn = plain_image().data
    drawn += KEY.encode()
    server = serve(always(whole(images_reply(drawn))))
    async with md.OpenAI(KEY, base_url=server.url + "/v1", transport=Recorder(tmp_path)) as backend:
        with pytest.raises(RecordingError) as caught:
            await backend.image_model("gpt-image-1").generate("a hat")
    assert caught.value.code == "SECRET_IN_IMAGE"
    assert files(tmp_path) == []


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
async def test_an_error_status_comes_again(serve: Serve, tmp_path: Path, status: int) -> None:
    server = serve(always(whole({"error": {"message": "so it is"}}, status, {"retry-after": "7"})))
    told = []
    for transport in (Recorder(tmp_path), Replay(tmp_path)):
        async with compatible(server.url, transport, retries=ONCE) as backend:
            with pytest.raises(md.MajordomoError) as caught:
                await backend.model("m").generate("hi")
        told.append((type(caught.value), caught.value.to_dict()))
        server.close()
    assert told[0] == told[1]
    assert told[0][1]["details"]["retry_after"] == 7.0


async def test_retries_come_again_in_their_order(serve: Serve, tmp_path: Path) -> None:
    server = serve(always(whole(b"", 502), whole(chat("at last"))))
    patient = md.Retries(attempts=2, initial_delay=0)
    for transport in (Recorder(tmp_path), Replay(tmp_path)):
        async with compatible(server.url, transport, retries=patient) as backend:
            assert (await backend.model("m").generate("hi")).text == "at last"
        server.close()
    assert [path.name[-7:] for path in files(tmp_path)] == ["-1.json", "-2.json"]


async def test_a_connection_that_fails_fails_again(serve: Serve, tmp_path: Path) -> None:
    def cutting(peer: Peer) -> None:
        peer.request()
        peer.begin()
        peer.chunk(delta("Good "))
        peer.close()

    server = serve(cutting)
    for transport in (Recorder(tmp_path / "cut"), Replay(tmp_path / "cut")):
        async with compatible(server.url, transport, retries=ONCE) as backend:
            with pytest.raises(md.StreamBrokenError) as broken:
                await heard(backend.model("m"), "hi")
        assert broken.value.partial.text == "Good "
        server.close()
    for transport in (Recorder(tmp_path / "dead"), Replay(tmp_path / "dead")):
        async with compatible(server.url, transport, retries=ONCE) as backend:
            with pytest.raises(md.ConnectionFailedError) as caught:
                await backend.model("m").generate("hi")
        assert caught.value.details["sent"] is False
        assert caught.value.retryable
    assert "answer" not in document(tmp_path / "dead")


async def test_a_time_limit_that_passed_passes_again(serve: Serve, tmp_path: Path) -> None:
    server = serve(silent)
    for transport in (Recorder(tmp_path), Replay(tmp_path)):
        async with compatible(
            server.url, transport, retries=ONCE, timeout=md.Timeout(first_byte=0.05)
        ) as backend:
            with pytest.raises(md.DeadlineExceededError) as caught:
                await backend.model("m").generate("hi")
        assert caught.value.phase == "first_byte"


async def test_what_was_left_half_way_is_kept_so_far(serve: Serve, tmp_path: Path) -> None:
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
    assert document(tmp_path)["answer"]["ended"] == "left"
    async with compatible(server.url, Replay(tmp_path)) as backend:
        with pytest.raises(RecordingError, match="not read any further"):
            await heard(backend.model("m"), "hi")


async def test_a_call_that_is_cancelled_leaves_no_trace(serve: Serve, tmp_path: Path) -> None:
    server = serve(silent)
    recorder = Recorder(tmp_path)
    async with compatible(server.url, recorder) as backend, anyio.create_task_group() as group:
        group.start_soon(backend.model("m").generate, "hi")
        while not server.seen:
            await anyio.sleep(0.01)
        group.cancel_scope.cancel()
    assert files(tmp_path) == []
    assert recorder.unused == []
    async with compatible(serve(always(whole(chat("hi")))).url, recorder) as backend:
        await backend.model("m").generate("hi")
    assert [path.name[-7:] for path in files(tmp_path)] == ["-1.json"]


async def test_once_records_what_is_missing_and_all_records_anew(
    serve: Serve, tmp_path: Path
) -> None:
    server = serve(always(*(whole(chat(f"answer {number}")) for number in range(1, 9))))

    async def ask(mode: Any, *prompts: str) -> list[str]:
        async with compatible(server.url, Recorder(tmp_path, mode=mode)) as backend:
            return [(await backend.model("m").generate(prompt)).text for prompt in prompts]

    assert await ask("once", "a", "a") == ["answer 1", "answer 2"]
    assert await ask("once", "a", "b", "a", "a") == ["answer 1", "answer 3", "answer 2", "answer 4"]
    assert await ask("replay", "b", "a") == ["answer 3", "answer 1"]
    assert await ask("all", "a") == ["answer 5"]
    assert len(files(tmp_path)) == 2
    assert await ask("replay", "a", "b") == ["answer 5", "answer 3"]
    assert len(server.seen) == 5
    with pytest.raises(md.ConfigurationError, match="mode"):
        Recorder(tmp_path, mode="never")  # type: ignore[arg-type]


async def test_the_same_exchanges_make_the_same_files(serve: Serve, tmp_path: Path) -> None:
    texts = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        server = serve(always(whole(chat("hi"))))
        async with compatible(server.url, Recorder(folder)) as backend:
            for prompt in ("b", "a"):
                await backend.model("m").generate([md.user(prompt, plain_image())])
        texts.append([(path.relative_to(folder), path.read_bytes()) for path in files(folder)])
    assert texts[0] == texts[1]
    assert not [path for path in files(tmp_path) if path.name.startswith(".")]


async def test_a_recording_can_be_made_over_a_foreign_transport_and_over_faults(
    tmp_path: Path,
) -> None:
    import httpx

    foreign = httpx.MockTransport(lambda request: httpx.Response(200, json=chat("foreign")))
    recorder = Recorder(tmp_path, Faults([Refused()], foreign))
    async with compatible(
        "http://backend.test", recorder, retries=md.Retries(attempts=2, initial_delay=0)
    ) as backend:
        assert (await backend.model("m").generate("hi")).text == "foreign"
    assert len(files(tmp_path)) == 2
    with pytest.raises(md.ConfigurationError, match="transport"):
        compatible("http://x", Recorder(tmp_path, object()))
    with pytest.raises(md.ConfigurationError, match="tls and proxy"):
        compatible("http://x", Recorder(tmp_path, foreign), proxy="http://x")


async def test_a_websocket_is_refused_and_the_images_come_all_the_same(
    serve: Serve, tmp_path: Path
) -> None:
    (backend,) = [backend for backend in BACKENDS if backend.name == "comfyui"]
    server = serve(backend.server())
    async with backend.connect(server.url, transport=Recorder(tmp_path)) as provider:
        connect = provider._client.transport.connect
        with pytest.raises(md.UnsupportedError, match="no websockets"):
            await connect("/ws", None, 1)
        events = await heard(
            provider.image_model(backend.model), "a red fox", previews=1, **backend.fields
        )
    assert isinstance(events[-1], imagegen.Done)
