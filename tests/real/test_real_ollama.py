"""A real Ollama: models, chat, completions, embeddings, and what it refuses."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import anyio
import pytest
from pydantic import BaseModel, Field

import majordomo as md
from majordomo.dialects.ollama.admin import PullProgress
from tests.real.servers.registry import Registry

pytestmark = [pytest.mark.real, pytest.mark.anyio]

SENTENCE = "The image shows colored noise, nothing else."
# A registry at a port without a server.
UNREACHABLE = "127.0.0.1:9/unknown/nothing"
WEATHER = md.Tool(
    "weather", parameters={"type": "object", "properties": {"city": {"type": "string"}}}
)
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}


class Person(BaseModel):
    # The untrained model never ends a string by itself.
    name: Annotated[str, Field(max_length=8)]
    age: Annotated[int, Field(ge=0, le=99)]


async def loaded(ollama: md.Ollama) -> set[str]:
    return {model["name"].removesuffix(":latest") for model in await ollama.admin.ps()}


async def wait_until_unloaded(ollama: md.Ollama, model: str) -> None:
    """Wait until the model is unloaded, which happens after Ollama has reported it."""
    with anyio.fail_after(10):
        while model in await loaded(ollama):
            await anyio.sleep(0.05)


async def streamed(model: md.llm.Model, messages: Any, **settings: Any) -> tuple[str, md.Reply]:
    texts = []
    async with model.stream(messages, **settings) as stream:
        async for event in stream:
            if isinstance(event, md.llm.TextDelta):
                texts.append(event.text)
    return "".join(texts), stream.reply


# Status and models


async def test_version_health_and_status_are_reported(ollama: md.Ollama) -> None:
    assert (await ollama.admin.version()).count(".") == 2
    assert (await ollama.health()).ok
    assert (await ollama.admin.status()).disabled is False


async def test_model_capabilities_come_from_file_and_template(ollama: md.Ollama) -> None:
    models = {model.id.removesuffix(":latest"): model for model in await ollama.models()}
    assert {
        name: set(models[name].capabilities) for name in ("recite", "embed", "caller", "thinker")
    } == {
        "recite": {"chat"},
        "embed": {"embed"},
        "caller": {"chat", "tools"},
        "thinker": {"chat", "thinking"},
    }


async def test_models_report_which_are_loaded(ollama: md.Ollama) -> None:
    await ollama.admin.load("recite", keep_alive="10m")
    assert {model.id: model.loaded for model in await ollama.models()}["recite:latest"] is True
    (row,) = [model for model in await ollama.admin.ps() if model["name"] == "recite:latest"]
    assert row["context_length"] == 512
    await ollama.admin.unload("recite")
    await wait_until_unloaded(ollama, "recite")
    assert {model.id: model.loaded for model in await ollama.models()}["recite:latest"] is False


async def test_keep_alive_zero_unloads_the_model_after_its_answer(ollama: md.Ollama) -> None:
    await ollama.admin.generate("recite", "Say it.", keep_alive=0)
    await wait_until_unloaded(ollama, "recite")


# Creating, copying and transferring models


async def test_a_blob_is_uploaded_once_and_its_digest_is_checked(
    ollama: md.Ollama, tmp_path: Path, anyio_backend: str
) -> None:
    file = tmp_path / "some.bin"
    file.write_bytes(anyio_backend.encode() * 100_000)
    digest = "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest()
    assert not await ollama.admin.has_blob(digest)
    assert await ollama.admin.upload(file) == digest
    assert await ollama.admin.has_blob(digest)
    assert await ollama.admin.upload(file) == digest


async def test_a_wrong_digest_is_refused(ollama: md.Ollama) -> None:
    from majordomo.transport_types import HTTPRequest

    digest = "sha256:" + hashlib.sha256(b"something").hexdigest()
    with pytest.raises(md.InvalidRequestError, match="digest mismatch"):
        await ollama.admin._send(
            HTTPRequest(
                "POST", f"/api/blobs/{digest}", b"something else", "application/octet-stream"
            )
        )
    assert not await ollama.admin.has_blob(digest)


async def test_a_model_is_created_shown_copied_and_deleted(
    ollama: md.Ollama, ollama_files: Path
) -> None:
    events: list[PullProgress] = []
    digest = await ollama.admin.upload(ollama_files / "recite.gguf")
    await ollama.admin.create(
        "made",
        files={"model.gguf": digest},
        template="<|user|>{{ .System }} {{ .Prompt }}<|assistant|>",
        system="Be brief.",
        parameters={"num_ctx": 256, "stop": ["noise", "</s>"]},
        license="none",
        messages=[{"role": "user", "content": "hi"}],
        on_event=events.append,
    )
    assert (events[0].status, events[-1].status) == ("parsing GGUF", "success")
    details = await ollama.admin.show("made")
    assert (details["system"], details["license"], details["messages"]) == (
        "Be brief.",
        "none",
        [{"role": "user", "content": "hi"}],
    )
    assert "num_ctx" in details["parameters"]
    assert details["template"].startswith("<|user|>{{ .System }}")
    assert details["model_info"]["llama.context_length"] == 2048
    await ollama.admin.copy("made", "me/twin")
    assert {"made:latest", "me/twin:latest"} <= {
        model["name"] for model in await ollama.admin.tags()
    }
    reply = await ollama.model("me/twin").generate("Say it.")
    # The parameter `stop` was applied.
    assert reply.text.strip() == "The image shows colored"
    async with ollama.admin.stream_create("child", from_model="made", system="Be long.") as stream:
        assert [progress.status async for progress in stream][-1] == "success"
    for name in ("made", "me/twin", "child"):
        await ollama.admin.delete(name)
        with pytest.raises(md.NotFoundError):
            await ollama.admin.show(name)


async def test_a_missing_model_is_not_found(ollama: md.Ollama) -> None:
    admin = ollama.admin
    for call in (
        admin.show("nothing"),
        admin.copy("nothing", "more"),
        admin.delete("nothing"),
        admin.load("nothing"),
        admin.generate("nothing", "hi"),
        ollama.model("nothing").generate("hi"),
        ollama.embedding_model("nothing").embed("hi"),
    ):
        with pytest.raises(md.NotFoundError, match="nothing") as caught:
            await call
        assert (caught.value.status, caught.value.provider) == (404, "ollama")


async def test_an_invalid_model_is_not_created(ollama: md.Ollama) -> None:
    digest = await ollama.admin.upload(b"no model at all")
    with pytest.raises(md.BackendError, match="GGUF"):
        await ollama.admin.create("broken", files={"model.gguf": digest})
    with pytest.raises(md.BackendError, match="no such file"):
        await ollama.admin.create("broken", files={"model.gguf": "sha256:" + "0" * 64})
    with pytest.raises(md.InvalidRequestError, match="template"):
        await ollama.admin.create("broken", from_model="recite", template="{{ .Nothing")
    assert "broken:latest" not in {model["name"] for model in await ollama.admin.tags()}


async def test_an_unreachable_registry_is_a_backend_error(ollama: md.Ollama) -> None:
    events: list[PullProgress] = []
    with pytest.raises(md.BackendError, match="pull model manifest"), anyio.fail_after(30):
        await ollama.admin.pull(UNREACHABLE, insecure=True, on_event=events.append)
    assert [progress.status for progress in events] == ["pulling manifest"]
    await ollama.admin.copy("recite", UNREACHABLE)
    with pytest.raises(md.BackendError, match="connection refused"), anyio.fail_after(30):
        await ollama.admin.push(UNREACHABLE, insecure=True)
    await ollama.admin.delete(UNREACHABLE)
    with pytest.raises(md.BackendError):
        await ollama.admin.push("unknown/nothing")


@pytest.fixture
def registry() -> Iterator[Registry]:
    registry = Registry()
    yield registry
    registry.close()


async def test_a_pushed_model_is_pulled_with_the_same_bytes(
    ollama: md.Ollama, registry: Registry, ollama_files: Path
) -> None:
    name = f"{registry.host}/me/mine:v1"
    digest = await ollama.admin.upload(ollama_files / "recite-pooled.gguf")
    await ollama.admin.create(name, files={"model.gguf": digest})
    events: list[PullProgress] = []
    await ollama.admin.push(name, insecure=True, on_event=events.append)
    assert (events[0].status, events[-1].status) == ("retrieving manifest", "success")
    assert sum(map(len, registry.blobs.values())) > 5_000_000
    assert any(
        progress.total == progress.completed and progress.digest in registry.blobs
        for progress in events
        if progress.total
    )
    await ollama.admin.delete(name)
    assert not await ollama.admin.has_blob(digest)
    async with ollama.admin.stream_pull(name, insecure=True) as stream:
        pulled = [progress async for progress in stream]
    statuses = [progress.status for progress in pulled]
    assert statuses[0] == "pulling manifest"
    assert statuses[-3:] == ["verifying sha256 digest", "writing manifest", "success"]
    assert max(progress.completed or 0 for progress in pulled if progress.digest == digest) == len(
        registry.blobs[digest]
    )
    assert len((await ollama.embedding_model(name).embed("hi")).vectors) == 1
    await ollama.admin.delete(name)


async def test_a_model_missing_in_the_registry_is_reported(
    ollama: md.Ollama, registry: Registry
) -> None:
    with pytest.raises(md.BackendError, match="pull model manifest: file does not exist"):
        await ollama.admin.pull(f"{registry.host}/me/nothing", insecure=True)


async def test_a_corrupted_blob_creates_no_model(
    ollama: md.Ollama, registry: Registry, ollama_files: Path
) -> None:
    name = f"{registry.host}/me/spoilt"
    digest = await ollama.admin.upload(ollama_files / "tiny.gguf")
    # The system prompt adds a layer that no other model has.
    await ollama.admin.create(name, files={"model.gguf": digest}, system=registry.host)
    await ollama.admin.push(name, insecure=True)
    await ollama.admin.delete(name)
    registry.corrupted = True
    with pytest.raises(md.BackendError, match="digest mismatch"):
        await ollama.admin.pull(name, insecure=True)
    with pytest.raises(md.NotFoundError):
        await ollama.admin.show(name)


# Chat


async def test_a_known_sentence_is_returned_completely(ollama: md.Ollama) -> None:
    reply = await ollama.model("recite").generate("Say it.")
    assert (reply.text, reply.finish_reason, reply.provider) == (SENTENCE, "stop", "ollama")
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (9, 8)


async def test_the_text_deltas_form_the_sentence(ollama: md.Ollama) -> None:
    text, reply = await streamed(ollama.model("recite"), "Say it.")
    assert (text, reply.text, reply.finish_reason) == (SENTENCE, SENTENCE, "stop")
    assert reply.usage.output_tokens == 8


async def test_max_tokens_ends_the_answer(ollama: md.Ollama) -> None:
    text, reply = await streamed(ollama.model("endless"), "Go on.", seed=1, max_tokens=5)
    assert (reply.finish_reason, reply.usage.output_tokens) == ("length", 5)
    assert (
        text
        == reply.text
        == (await ollama.model("endless").generate("Go on.", seed=1, max_tokens=5)).text
    )


def test_sync_methods_give_the_same_results(ollama_url: str) -> None:
    with md.Ollama(ollama_url) as ollama:
        assert ollama.health_sync().ok
        assert ollama.model("recite").generate_sync("Say it.").text == SENTENCE
        with ollama.model("recite").stream_sync("Say it.") as stream:
            assert (
                "".join(event.text for event in stream if isinstance(event, md.llm.TextDelta))
                == SENTENCE
            )
        with ollama.admin.stream_generate_sync("recite", "Say it.") as texts:
            assert "".join(texts) == SENTENCE
        with ollama.admin.stream_create_sync("blocking", from_model="recite") as progress_stream:
            assert [progress.status for progress in progress_stream][-1] == "success"
        ollama.admin.delete_sync("blocking")
        assert len(ollama.embedding_model("embed").embed_sync("hi").vectors) == 1


async def test_seed_and_temperature_are_applied(ollama: md.Ollama) -> None:
    model = ollama.model("endless")

    async def generate(**settings: Any) -> str:
        return (await model.generate("Tell me.", max_tokens=12, **settings)).text

    assert (
        await generate(seed=7, temperature=1.5)
        == await generate(seed=7, temperature=1.5)
        != await generate(seed=8, temperature=1.5)
    )
    assert await generate(seed=7, temperature=0.0) == await generate(seed=8, temperature=0.0)


async def test_leaving_a_stream_stops_the_engine(separate_ollama: Any) -> None:
    """Leaving a stream stops the engine.

    Ollama may keep the slot of the model after a client has disconnected (its issue 17131);
    unloading the model releases it.
    """
    async with md.Ollama(separate_ollama.url, retries=md.Retries(attempts=1)) as ollama:
        model = ollama.model("endless")
        # Generation ends by itself after 81,920 tokens.
        long = {"ollama": {"options": {"num_ctx": 8192}}}
        with anyio.CancelScope() as scope:
            async with model.stream("Go on.", seed=1, extra=long) as stream:
                async for _ in stream:
                    scope.cancel()
        assert scope.cancelled_caught
        with anyio.fail_after(10):
            used = -1.0
            while used != (used := separate_ollama.cpu_seconds()):
                await anyio.sleep(0.3)
        await ollama.admin.unload("endless")
        await wait_until_unloaded(ollama, "endless")
        with anyio.fail_after(20):
            assert (
                await model.generate("Go on.", seed=1, max_tokens=3, extra=long)
            ).finish_reason == "length"


async def test_structured_output_matches_its_schema(ollama: md.Ollama) -> None:
    reply = await ollama.model("tiny").generate("Who?", output=PERSON, seed=3, max_tokens=400)
    assert set(reply.output) == {"name", "age"}
    assert isinstance(reply.output["age"], int)
    text, reply = await streamed(
        ollama.model("tiny"), "Who?", output=Person, seed=3, max_tokens=400
    )
    assert reply.output == Person.model_validate_json(text)


async def test_thinking_is_separate_from_the_answer(ollama: md.Ollama) -> None:
    model = ollama.model("thinker")
    for settings in ({}, {"reasoning": "low"}):
        reply = await model.generate("Hm?", **settings)
        assert (reply.thinking, reply.text) == ("Noise, as ever.", "It is colored.")
    again = await model.generate([md.user("Hm?"), reply.message, md.user("Again?")])
    assert again.text == "It is colored."
    result = await ollama.admin.generate("thinker", "Hm?", think=True)
    assert (result.thinking, result.text) == ("Noise, as ever.", "It is colored.")
    assert not (await model.generate("Hm?", reasoning="off")).thinking


async def test_a_tool_is_called(ollama: md.Ollama) -> None:
    model = ollama.model("caller")
    async with model.stream("How is it in Ulm?", tools=[WEATHER]) as stream:
        events = [event async for event in stream]
    (call,) = stream.reply.tool_calls
    assert (call.name, call.arguments, stream.reply.finish_reason) == (
        "weather",
        {"city": "Ulm"},
        "tool_calls",
    )
    assert any(isinstance(event, md.llm.ToolCall) for event in events)
    history = [md.user("How is it in Ulm?"), stream.reply.message, md.tool_result(call, "sunny")]
    assert (await model.generate(history, tools=[WEATHER])).usage.input_tokens


@pytest.mark.parametrize(
    ("feature", "settings"),
    [("tools", {"tools": [WEATHER]}), ("thinking", {"reasoning": "high"})],
    ids=["tools", "thinking"],
)
async def test_unsupported_features_are_refused(
    ollama: md.Ollama, feature: str, settings: dict[str, Any]
) -> None:
    with pytest.raises(md.InvalidRequestError, match=f"does not support {feature}"):
        await ollama.model("recite").generate("hi", **settings)
    with pytest.raises(md.InvalidRequestError, match="does not support chat"):
        await ollama.model("embed").generate("hi")


async def test_an_image_is_not_sent_to_a_model_without_vision(ollama: md.Ollama) -> None:
    """The server would put "[img-0]" in the prompt and answer."""
    image = (
        await md.Offline().image_model("renderer").generate("a lighthouse", size="64x64")
    ).image
    with pytest.raises(md.UnsupportedError, match="has no vision"):
        await ollama.model("recite").generate([md.user("Look.", image)])
    with pytest.raises(md.UnsupportedError, match="has no vision"):
        await ollama.admin.generate("recite", "Look.", images=[image])
    plain = await ollama.admin.generate("recite", "Look.")
    with_image = await ollama.admin.generate(
        "recite", "Look.", extra={"images": [base64.b64encode(image.data).decode()]}
    )
    assert with_image.text == SENTENCE
    assert len(with_image.context) > len(plain.context)


async def test_a_long_conversation_is_truncated_unless_disabled(ollama: md.Ollama) -> None:
    model = ollama.model("tiny")
    assert (await model.generate("word " * 3000, max_tokens=2)).usage.input_tokens == 512
    with pytest.raises(md.InvalidRequestError, match="context length"):
        await model.generate("word " * 3000, max_tokens=2, extra={"truncate": False})


# Completions


async def test_a_completion_reports_its_texts_and_its_context(ollama: md.Ollama) -> None:
    texts: list[str] = []
    result = await ollama.admin.generate("recite", "Say it.", on_event=texts.append)
    assert (result.text, "".join(texts), result.finish_reason, result.model) == (
        SENTENCE,
        SENTENCE,
        "stop",
        "recite",
    )
    assert len(texts) > 1
    again = await ollama.admin.generate("recite", "Say it.", context=result.context)
    assert again.context[: len(result.context)] == result.context
    assert again.usage.input_tokens is not None and result.usage.input_tokens is not None
    assert again.usage.input_tokens > result.usage.input_tokens


@pytest.mark.parametrize(
    ("fields", "longer"),
    [
        ({"system": "Be brief."}, True),
        ({"template": "<|user|>{{ .Prompt }} and then some more words<|assistant|>"}, True),
        ({"template": "<|assistant|>"}, False),
    ],
    ids=["system", "template", "short template"],
)
async def test_system_and_template_change_the_prompt(
    ollama: md.Ollama, fields: dict[str, Any], longer: bool
) -> None:
    plain = await ollama.admin.generate("recite", "Say it.")
    changed = await ollama.admin.generate("recite", "Say it.", **fields)
    assert changed.text == SENTENCE
    assert plain.usage.input_tokens is not None and changed.usage.input_tokens is not None
    assert (changed.usage.input_tokens > plain.usage.input_tokens) is longer


async def test_a_raw_prompt_is_sent_unchanged(ollama: md.Ollama) -> None:
    result = await ollama.admin.generate("recite", "<|assistant|>The image", raw=True)
    assert (result.text, result.context, result.usage.input_tokens) == (
        " shows colored noise, nothing else.",
        (),
        4,
    )


async def test_options_and_format_are_applied(ollama: md.Ollama) -> None:
    result = await ollama.admin.generate("endless", "Go on.", options={"num_predict": 4, "seed": 1})
    assert (result.finish_reason, result.usage.output_tokens) == ("length", 4)
    result = await ollama.admin.generate(
        "tiny", "Who?", output=Person, options={"seed": 3, "num_predict": 400}
    )
    assert Person.model_validate_json(result.text)


async def test_a_model_with_insert_support_fills_a_gap(ollama: md.Ollama) -> None:
    assert (
        await ollama.admin.generate("filler", "def add(a, b):", suffix="# end")
    ).text == "return a + b"
    with pytest.raises(md.InvalidRequestError, match="does not support insert"):
        await ollama.admin.generate("recite", "def add(a, b):", suffix="# end")


async def test_invalid_completions_are_refused(ollama: md.Ollama) -> None:
    admin = ollama.admin
    with pytest.raises(md.InvalidRequestError, match="does not support thinking"):
        await admin.generate("recite", "hi", think=True)
    with pytest.raises(md.InvalidRequestError, match="does not support generate"):
        await admin.generate("embed", "hi")
    with pytest.raises(md.InvalidRequestError, match="duration"):
        await admin.load("recite", keep_alive="soon")
    # The server sends 500, not 400.
    with pytest.raises(md.BackendError, match="must be of type"):
        await admin.generate("recite", "hi", options={"temperature": "hot"})
    with pytest.raises(md.BackendError, match="unclosed action"):
        await admin.generate("recite", "hi", template="{{ .Nothing")


# Embeddings


@pytest.mark.parametrize("model", ["embed", "tiny"])
async def test_embeddings_are_unit_vectors(ollama: md.Ollama, model: str) -> None:
    result = await ollama.embedding_model(model).embed(
        ["hello there", "something else", "hello there"]
    )
    assert [len(vector) for vector in result.vectors] == [64, 64, 64]
    assert all(
        abs(sum(number * number for number in vector) - 1) < 1e-4 for vector in result.vectors
    )
    assert result.vectors[0] == pytest.approx(result.vectors[2], abs=1e-5)
    assert result.vectors[0] != pytest.approx(result.vectors[1], abs=1e-3)
    assert result.usage.input_tokens


async def test_vectors_are_cut_to_the_requested_dimensions(ollama: md.Ollama) -> None:
    result = await ollama.embedding_model("embed").embed("hello there", dimensions=8)
    assert len(result.vectors[0]) == 8
    assert abs(sum(number * number for number in result.vectors[0]) - 1) < 1e-4


async def test_a_text_too_long_to_embed_is_refused_without_truncation(
    ollama: md.Ollama,
) -> None:
    with pytest.raises(md.InvalidRequestError, match="context length"):
        await ollama.embedding_model("embed").embed("word " * 5000, extra={"truncate": False})


# The hosted service, without an account


async def test_an_account_needs_the_hosted_service(ollama: md.Ollama) -> None:
    with anyio.fail_after(60):
        with pytest.raises((md.AuthenticationError, md.OverloadedError, md.BackendError)):
            await ollama.admin.account()
        with pytest.raises((md.AuthenticationError, md.BackendError)):
            await ollama.admin.web_search("lighthouses")
