from __future__ import annotations

import hashlib
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from pydantic import BaseModel

import majordomo as md
from majordomo.dialects.ollama.admin import PullProgress
from majordomo.llm import Done, TextDelta
from tests.servers.ollama_chat import LAYERS, OllamaChat, Reply
from tests.support.loopback import Handler, Loopback, Peer


@pytest.fixture
def server() -> OllamaChat:
    return OllamaChat()


@pytest.fixture
def ollama(server: OllamaChat, serve: Callable[[Handler], Loopback]) -> md.Ollama:
    return md.Ollama(serve(server).url, retries=md.Retries(attempts=1))


async def test_version_tags_show_and_ps(ollama: md.Ollama) -> None:
    assert await ollama.admin.version()
    assert "llama3.2:latest" in [model["name"] for model in await ollama.admin.tags()]
    assert "tools" in (await ollama.admin.show("llama3.2"))["capabilities"]
    assert await ollama.admin.ps() == []
    with pytest.raises(md.NotFoundError, match="nothing"):
        await ollama.admin.show("nothing")


async def test_load_and_unload(ollama: md.Ollama, server: OllamaChat) -> None:
    await ollama.admin.load("llama3.2", keep_alive="10m")
    assert server.received_bodies[-1]["keep_alive"] == "10m"
    assert [model["name"] for model in await ollama.admin.ps()] == ["llama3.2:latest"]
    await ollama.admin.unload("llama3.2")
    assert await ollama.admin.ps() == []


async def test_pull_reports_progress_in_bytes(ollama: md.Ollama) -> None:
    progress_events: list[PullProgress] = []
    await ollama.admin.pull("new-model", on_event=progress_events.append)
    assert progress_events[0].status == "pulling manifest"
    assert progress_events[-1].status == "success"
    layer = [progress for progress in progress_events if progress.total]
    assert layer[-1].completed == layer[-1].total
    assert layer[0].digest.startswith("sha256:")
    assert "new-model:latest" in [model["name"] for model in await ollama.admin.tags()]


@pytest.mark.parametrize(
    ("failure_mode", "kind"),
    [
        ("error", md.BackendError),
        ("refused", md.BackendError),
        ("interrupted", md.StreamBrokenError),
    ],
)
async def test_a_failed_pull_raises_a_typed_error(
    ollama: md.Ollama, server: OllamaChat, failure_mode: str, kind: Any
) -> None:
    server.pull = failure_mode
    with pytest.raises(kind) as caught:
        await ollama.admin.pull("new-model")
    assert caught.value.provider == "ollama"


async def test_a_missing_model_or_file_is_neither_pushed_nor_created(ollama: md.Ollama) -> None:
    with pytest.raises(md.BackendError, match="no such file"):
        await ollama.admin.push("me/nothing")
    with pytest.raises(md.BackendError, match="no such file"):
        await ollama.admin.create("mine", files={"tiny.gguf": "sha256:" + "0" * 64})


async def test_push_reports_success(ollama: md.Ollama) -> None:
    progress_events: list[PullProgress] = []
    await ollama.admin.copy("llama3.2", "me/mine")
    await ollama.admin.push("me/mine", on_event=progress_events.append)
    assert progress_events[-1].status == "success"


async def test_a_model_is_created_from_an_uploaded_file(
    ollama: md.Ollama, server: OllamaChat, tmp_path: Path
) -> None:
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"GGUF" * 1000)
    digest = "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest()
    assert not await ollama.admin.has_blob(digest)
    assert await ollama.admin.upload(file) == digest
    assert await ollama.admin.has_blob(digest)
    assert await ollama.admin.upload(file.read_bytes()) == digest
    progress_events: list[PullProgress] = []
    await ollama.admin.create(
        "mine",
        files={"tiny.gguf": digest},
        system="be brief",
        parameters={"num_ctx": 512},
        on_event=progress_events.append,
    )
    assert progress_events[-1].status == "success"
    sent = server.received_bodies[-1]
    assert (sent["files"], sent["system"], sent["parameters"]) == (
        {"tiny.gguf": digest},
        "be brief",
        {"num_ctx": 512},
    )
    await ollama.admin.delete("mine")
    with pytest.raises(md.NotFoundError):
        await ollama.admin.delete("mine")


async def test_invalid_input_is_refused_before_sending(
    ollama: md.Ollama, server: OllamaChat
) -> None:
    for field, call in (
        ("from_model", ollama.admin.create("mine")),
        ("digest", ollama.admin.create("mine", files={"a": "sha256:../../etc"})),
        ("digest", ollama.admin.has_blob("md5:1")),
        ("raw", ollama.admin.generate("llama3.2", "hi", raw=True, system="x")),
        ("model", ollama.admin.pull("")),
    ):
        with pytest.raises(md.InvalidRequestError) as caught:
            await call
        assert caught.value.details["field"] == field
    assert server.received_bodies == []


async def test_streams_yield_progress(ollama: md.Ollama) -> None:
    async with ollama.admin.stream_pull("new-model") as stream:
        with pytest.raises(RuntimeError, match="no result yet"):
            _ = stream.result
        progress_events = [progress async for progress in stream]
    assert (progress_events[0].status, progress_events[-1].status) == (
        "pulling manifest",
        "success",
    )
    assert stream.result == progress_events[-1]
    async with ollama.admin.stream_create("mine", from_model="llama3.2") as stream:
        assert [progress.status async for progress in stream][-1] == "success"
    async with ollama.admin.stream_push("mine") as stream:
        assert (await anext(aiter(stream))).status == "retrieving manifest"


def test_sync_streams_yield_progress(ollama: md.Ollama) -> None:
    admin = ollama.admin
    with admin.stream_pull_sync("new-model") as stream:
        progress_events = [progress.status for progress in stream]
    assert (progress_events[0], progress_events[-1]) == ("pulling manifest", "success")
    with admin.stream_create_sync("mine", from_model="llama3.2") as stream:
        assert [progress.status for progress in stream][-1] == "success"
    with admin.stream_push_sync("mine") as stream:
        assert [progress.status for progress in stream][-1] == "success"
    with admin.stream_generate_sync("llama3.2", "hi there") as stream:
        assert "".join(stream) == "I saw: hi there"
    assert stream.result.text == "I saw: hi there"
    ollama.close()


@pytest.mark.parametrize("failure_mode", ["error", "interrupted"])
async def test_progress_before_a_failure_is_yielded_first(
    ollama: md.Ollama, server: OllamaChat, failure_mode: str
) -> None:
    server.pull = failure_mode
    statuses: list[str] = []
    async with ollama.admin.stream_pull("new-model") as stream:
        with pytest.raises(
            md.BackendError if failure_mode == "error" else md.StreamBrokenError
        ) as caught:
            async for progress in stream:
                statuses.append(progress.status)
    assert statuses == [
        "pulling manifest",
        f"pulling {LAYERS[0][0][7:19]}",
        f"pulling {LAYERS[0][0][7:19]}",
    ]
    assert (caught.value.provider, caught.value.model) == ("ollama", "new-model")
    with pytest.raises(type(caught.value)) as again:
        _ = stream.result
    assert again.value is caught.value


async def test_progress_is_emitted_before_a_failure_in_the_same_chunk() -> None:
    lines = b'{"status":"pulling manifest"}\n{"error":"file does not exist"}\n'
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=lines))
    progress_events: list[PullProgress] = []
    async with md.Ollama(transport=transport) as ollama:
        with pytest.raises(md.BackendError, match="file does not exist"):
            await ollama.admin.pull("new-model", on_event=progress_events.append)
    assert progress_events == [PullProgress("pulling manifest")]


async def test_leaving_a_completion_stops_it(ollama: md.Ollama, server: OllamaChat) -> None:
    server.hold()
    async with ollama.admin.stream_generate("llama3.2", "hi there") as stream:
        assert await anext(aiter(stream)) == "I"
    server.release()
    assert (await ollama.admin.generate("llama3.2", "and now")).text == "I saw: and now"


async def test_a_long_pull_does_not_hold_a_slot(ollama: md.Ollama) -> None:
    """`max_concurrency` counts generations, not transfers."""
    async with ollama.admin.stream_pull("new-model") as stream:
        await anext(aiter(stream))
        with anyio.fail_after(5):
            assert (await ollama.model("llama3.2").generate("hi")).text


def test_every_async_method_has_a_sync_version(ollama: md.Ollama, tmp_path: Path) -> None:
    admin = ollama.admin
    names = {name for name in dir(admin) if not name.startswith("_") and not name.endswith("_sync")}
    assert all(callable(getattr(admin, f"{name}_sync")) for name in names)
    assert admin.version_sync()
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"GGUF")
    digest = admin.upload_sync(file)
    assert admin.has_blob_sync(digest)
    progress_events: list[PullProgress] = []
    admin.create_sync("mine", files={"tiny.gguf": digest}, on_event=progress_events.append)
    admin.copy_sync("mine", "me/yours")
    admin.push_sync("me/yours", on_event=progress_events.append)
    admin.pull_sync("other", on_event=progress_events.append)
    assert [progress.status for progress in progress_events].count("success") == 3
    assert admin.show_sync("mine")["capabilities"] == ["completion"]
    admin.delete_sync("mine")
    assert "mine:latest" not in [model["name"] for model in admin.tags_sync()]
    admin.load_sync("llama3.2")
    assert [model["name"] for model in admin.ps_sync()] == ["llama3.2:latest"]
    texts: list[str] = []
    assert (
        admin.generate_sync("llama3.2", "hi", on_event=texts.append).text
        == "".join(texts)
        == "I saw: hi"
    )
    admin.unload_sync("llama3.2")
    assert admin.ps_sync() == []
    with pytest.raises(md.NotFoundError):
        admin.delete_sync("mine")
    ollama.close()


async def test_a_misspelled_field_is_a_type_error(ollama: md.Ollama, server: OllamaChat) -> None:
    with pytest.raises(TypeError, match="sytem"):
        await ollama.admin.generate("llama3.2", "hi", sytem="brief")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="form_model"):
        ollama.admin.stream_create("mine", form_model="llama3.2")  # type: ignore[call-arg]
    assert server.received_bodies == []


async def test_generate_with_all_fields(
    ollama: md.Ollama, server: OllamaChat, image: Callable[..., md.ImagePart]
) -> None:
    class Mood(BaseModel):
        word: str

    texts: list[str] = []
    generated = await ollama.admin.generate(
        "gemma3",
        "look",
        system="brief",
        images=[image()],
        options={"num_ctx": 512},
        on_event=texts.append,
    )
    assert "64x48" in generated.text
    assert "".join(texts) == generated.text
    assert generated.context
    assert generated.usage.output_tokens
    again = await ollama.admin.generate("llama3.2", "mood?", context=generated.context, output=Mood)
    assert Mood.model_validate_json(again.text)
    assert server.received_bodies[-1]["context"] == list(generated.context)
    server.script = [Reply("half", cut=True)]
    with pytest.raises(md.StreamBrokenError) as caught:
        await ollama.admin.generate("llama3.2", "go")
    assert caught.value.partial.text == "half"
    server.script = [Reply("half", error="boom")]
    with pytest.raises(md.BackendError, match="boom"):
        await ollama.admin.generate("llama3.2", "go")


async def test_chat_with_images_and_tools(
    ollama: md.Ollama, image: Callable[..., md.ImagePart]
) -> None:
    def weather(city: str) -> list[Any]:
        return [f"sun in {city}", image()]

    model = ollama.model("qwen3-vl")
    reply = await md.run_tools(model, 'weather {"city": "Ulm"}', tools=[weather])
    assert [message.role for message in reply.new_messages] == ["assistant", "tool", "assistant"]
    assert reply.images == (image(),)
    history = [md.user("hi"), *reply.new_messages, md.user("and this?", image(color="red"))]
    async with model.stream(history, reasoning="low", max_tokens=50, stop="END", seed=0) as stream:
        events = [event async for event in stream]
    assert isinstance(events[-1], Done)
    assert "64x48 #ff0000" in stream.reply.text
    assert stream.reply.thinking


async def test_missing_capabilities_are_typed_errors(ollama: md.Ollama, server: OllamaChat) -> None:
    with pytest.raises(md.InvalidRequestError, match="does not support tools"):
        await ollama.model("gemma3").generate("hi", tools=[md.Tool("f")])
    with pytest.raises(md.InvalidRequestError, match="think"):
        await ollama.model("llama3.2").generate("hi", reasoning="high")
    server.busy = True
    with pytest.raises(md.OverloadedError):
        await ollama.model("llama3.2").generate("hi")


@pytest.mark.parametrize("reply", [Reply("Hello.", error="boom"), Reply("Hello.", cut=True)])
async def test_a_broken_stream_keeps_the_partial_reply(
    ollama: md.Ollama, server: OllamaChat, reply: Reply
) -> None:
    server.script = [reply]
    received_text = ""
    with pytest.raises(md.StreamBrokenError) as caught:
        async with ollama.model("llama3.2").stream("hi") as stream:
            async for event in stream:
                received_text += event.text if isinstance(event, TextDelta) else ""
    assert caught.value.partial.text == received_text == "Hello."


async def test_an_image_is_not_sent_to_a_model_without_vision(
    ollama: md.Ollama, server: OllamaChat, image: Callable[..., md.ImagePart]
) -> None:
    """Ollama silently replaces the image with "[img-0]" for such a model."""
    model = ollama.model("llama3.2")
    for messages in (
        [md.user("look", image())],
        [md.user("look", image(color="red")), md.assistant("red"), md.user("sure?")],
    ):
        with pytest.raises(md.UnsupportedError, match="has no vision") as caught:
            await model.generate(messages)
        assert (caught.value.details["field"], caught.value.provider, caught.value.model) == (
            "messages",
            "ollama",
            "llama3.2",
        )
        with pytest.raises(md.UnsupportedError):
            async with model.stream(messages) as stream:
                await anext(aiter(stream))
    with pytest.raises(md.UnsupportedError):
        await ollama.admin.generate("llama3.2", "look", images=[image()])
    assert all("messages" not in body and "prompt" not in body for body in server.received_bodies)


async def test_vision_is_checked_once_per_model(
    ollama: md.Ollama, server: OllamaChat, image: Callable[..., md.ImagePart]
) -> None:
    model = ollama.model("gemma3")
    for _ in range(2):
        assert "64x48" in (await model.generate([md.user("look", image())])).text
    async with model.stream([md.user("look", image())]) as stream:
        assert [event async for event in stream]
    assert "64x48" in stream.reply.text
    assert [("messages" in body) for body in server.received_bodies] == [False, True, True, True]


async def test_images_are_sent_when_the_server_lists_no_capabilities(
    ollama: md.Ollama, server: OllamaChat, image: Callable[..., md.ImagePart]
) -> None:
    server.models["old:latest"] = ()
    with pytest.raises(md.InvalidRequestError, match="does not support chat"):
        await ollama.model("old").generate([md.user("look", image())])
    with pytest.raises(md.NotFoundError):
        await ollama.model("nothing").generate([md.user("look", image())])


async def test_a_key_echoed_in_a_frame_is_in_no_error_or_traceback(
    serve: Callable[[Handler], Loopback],
) -> None:
    key = "sk-very-secret"

    def handler(peer: Peer) -> None:
        while peer.request() is not None:
            peer.begin()
            peer.chunk(
                b'{"response":"%b","status":"%b"}\n{"error":"bad key %b"}\n' % ((key.encode(),) * 3)
            )
            peer.end()

    def describe_frames(error: BaseException) -> str:
        frames = [
            frame
            for frame, _ in traceback.walk_tb(error.__traceback__)
            if "/tests/" not in frame.f_code.co_filename
        ]
        return "".join(repr(frame.f_locals) for frame in frames)

    async with md.Ollama(serve(handler).url, api_key=key, retries=md.Retries(attempts=1)) as ollama:
        for call in (lambda: ollama.admin.generate("m", "x"), lambda: ollama.admin.pull("m")):
            with pytest.raises(md.MajordomoError, match="bad key") as caught:
                await call()
            assert key not in f"{caught.value!r} {describe_frames(caught.value)}"
