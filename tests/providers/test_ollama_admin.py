from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loopback import Handler, Loopback
from pydantic import BaseModel
from servers.ollama_chat import OllamaChat, Reply

import majordomo as md
from majordomo.dialects.ollama_admin import Progress
from majordomo.llm import Done, TextDelta


@pytest.fixture
def server() -> OllamaChat:
    return OllamaChat()


@pytest.fixture
def ollama(server: OllamaChat, serve: Callable[[Handler], Loopback]) -> md.Ollama:
    return md.Ollama(serve(server).url, retries=md.Retries(attempts=1))


async def test_what_is_there(ollama: md.Ollama) -> None:
    assert await ollama.admin.version()
    assert "llama3.2:latest" in [model["name"] for model in await ollama.admin.tags()]
    assert "tools" in (await ollama.admin.show("llama3.2"))["capabilities"]
    assert await ollama.admin.ps() == []
    with pytest.raises(md.NotFoundError, match="nothing"):
        await ollama.admin.show("nothing")


async def test_load_and_unload(ollama: md.Ollama, server: OllamaChat) -> None:
    await ollama.admin.load("llama3.2", keep_alive="10m")
    assert server.seen[-1]["keep_alive"] == "10m"
    assert [model["name"] for model in await ollama.admin.ps()] == ["llama3.2:latest"]
    await ollama.admin.unload("llama3.2")
    assert await ollama.admin.ps() == []


async def test_pull_tells_bytes(ollama: md.Ollama) -> None:
    told: list[Progress] = []
    await ollama.admin.pull("new-model", tell=told.append)
    assert told[0].status == "pulling manifest"
    assert told[-1].status == "success"
    layer = [progress for progress in told if progress.total]
    assert layer[-1].completed == layer[-1].total
    assert layer[0].digest.startswith("sha256:")
    assert "new-model:latest" in [model["name"] for model in await ollama.admin.tags()]


@pytest.mark.parametrize(("way", "kind"), [("error", md.BackendError), ("refused", md.BackendError), ("interrupted", md.StreamBrokenError)])
async def test_a_pull_that_fails_says_so(ollama: md.Ollama, server: OllamaChat, way: str, kind: Any) -> None:
    server.pull = way
    with pytest.raises(kind) as caught:
        await ollama.admin.pull("new-model")
    assert caught.value.provider == "ollama"


async def test_push(ollama: md.Ollama) -> None:
    told: list[Progress] = []
    await ollama.admin.copy("llama3.2", "me/mine")
    await ollama.admin.push("me/mine", tell=told.append)
    assert told[-1].status == "success"


async def test_a_model_is_made_from_a_file(ollama: md.Ollama, server: OllamaChat, tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"GGUF" * 1000)
    digest = "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest()
    assert not await ollama.admin.has_blob(digest)
    assert await ollama.admin.upload(file) == digest
    assert await ollama.admin.has_blob(digest)
    assert await ollama.admin.upload(file.read_bytes()) == digest
    told: list[Progress] = []
    await ollama.admin.create("mine", files={"tiny.gguf": digest}, system="be brief", parameters={"num_ctx": 512}, tell=told.append)
    assert told[-1].status == "success"
    sent = server.seen[-1]
    assert (sent["files"], sent["system"], sent["parameters"]) == ({"tiny.gguf": digest}, "be brief", {"num_ctx": 512})
    await ollama.admin.delete("mine")
    with pytest.raises(md.NotFoundError):
        await ollama.admin.delete("mine")


async def test_bad_input_is_refused_before_sending(ollama: md.Ollama, server: OllamaChat) -> None:
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
    assert server.seen == []


async def test_generate_with_its_fields(ollama: md.Ollama, server: OllamaChat, picture: Callable[..., md.ImagePart]) -> None:
    class Mood(BaseModel):
        word: str

    pieces: list[str] = []
    made = await ollama.admin.generate("gemma3", "look", system="brief", images=[picture()], options={"num_ctx": 512}, tell=pieces.append)
    assert "64x48" in made.text
    assert "".join(pieces) == made.text
    assert made.context
    assert made.usage.output_tokens
    again = await ollama.admin.generate("llama3.2", "mood?", context=made.context, output=Mood)
    assert Mood.model_validate_json(again.text)
    assert server.seen[-1]["context"] == list(made.context)
    server.script = [Reply("half", cut=True)]
    with pytest.raises(md.StreamBrokenError) as caught:
        await ollama.admin.generate("llama3.2", "go")
    assert caught.value.partial.text == "half"


async def test_chat_sees_pictures_and_calls_tools(ollama: md.Ollama, picture: Callable[..., md.ImagePart]) -> None:
    def weather(city: str) -> list[Any]:
        return [f"sun in {city}", picture()]

    model = ollama.model("qwen3-vl")
    reply = await md.run_tools(model, 'weather {"city": "Ulm"}', tools=[weather])
    assert [message.role for message in reply.new_messages] == ["assistant", "tool", "assistant"]
    assert reply.images == (picture(),)
    history = [md.user("hi"), *reply.new_messages, md.user("and this?", picture(colour="red"))]
    async with model.stream(history, reasoning="low", max_tokens=50, stop="END", seed=0) as stream:
        events = [event async for event in stream]
    assert isinstance(events[-1], Done)
    assert "64x48 #ff0000" in stream.reply.text
    assert stream.reply.thinking


async def test_what_a_model_cannot_do_is_a_typed_error(ollama: md.Ollama, server: OllamaChat) -> None:
    with pytest.raises(md.InvalidRequestError, match="does not support tools"):
        await ollama.model("gemma3").generate("hi", tools=[md.Tool("f")])
    with pytest.raises(md.InvalidRequestError, match="think"):
        await ollama.model("llama3.2").generate("hi", reasoning="high")
    server.busy = True
    with pytest.raises(md.OverloadedError):
        await ollama.model("llama3.2").generate("hi")


@pytest.mark.parametrize("reply", [Reply("Hello.", error="boom"), Reply("Hello.", cut=True)])
async def test_a_broken_stream_keeps_the_prefix(ollama: md.Ollama, server: OllamaChat, reply: Reply) -> None:
    server.script = [reply]
    seen = ""
    with pytest.raises(md.StreamBrokenError) as caught:
        async with ollama.model("llama3.2").stream("hi") as stream:
            async for event in stream:
                seen += event.text if isinstance(event, TextDelta) else ""
    assert caught.value.partial.text == seen == "Hello."
