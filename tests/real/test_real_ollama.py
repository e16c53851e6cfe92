"""A real Ollama: its models, its chat, completions and embeddings, and what it refuses."""

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
NOWHERE = "127.0.0.1:9/nobody/nothing"  # a registry on the port that nobody answers
WEATHER = md.Tool(
    "weather", parameters={"type": "object", "properties": {"city": {"type": "string"}}}
)
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}


class Person(BaseModel):
    name: Annotated[
        str, Field(max_length=8)
    ]  # weights that learned nothing end no string by themselves
    age: Annotated[int, Field(ge=0, le=99)]


async def loaded(ollama: md.Ollama) -> set[str]:
    return {model["name"].removesuffix(":latest") for model in await ollama.admin.ps()}


async def gone(ollama: md.Ollama, model: str) -> None:
    """Ollama takes a model out of memory after it has said so."""
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


# What is there


async def test_it_says_who_it_is(ollama: md.Ollama) -> None:
    assert (await ollama.admin.version()).count(".") == 2
    assert (await ollama.health()).ok
    assert (await ollama.admin.status()).disabled is False


async def test_models_have_the_capabilities_that_file_and_template_give(ollama: md.Ollama) -> None:
    found = {model.id.removesuffix(":latest"): model for model in await ollama.models()}
    assert {
        name: set(found[name].capabilities) for name in ("recite", "embed", "caller", "thinker")
    } == {
        "recite": {"chat"},
        "embed": {"embed"},
        "caller": {"chat", "tools"},
        "thinker": {"chat", "thinking"},
    }


async def test_models_say_which_are_in_memory(ollama: md.Ollama) -> None:
    await ollama.admin.load("recite", keep_alive="10m")
    assert {model.id: model.loaded for model in await ollama.models()}["recite:latest"] is True
    (row,) = [model for model in await ollama.admin.ps() if model["name"] == "recite:latest"]
    assert row["context_length"] == 512
    await ollama.admin.unload("recite")
    await gone(ollama, "recite")
    assert {model.id: model.loaded for model in await ollama.models()}["recite:latest"] is False


async def test_a_model_kept_for_no_time_is_gone_after_its_answer(ollama: md.Ollama) -> None:
    await ollama.admin.generate("recite", "Say it.", keep_alive=0)
    await gone(ollama, "recite")


# Models come and go


async def test_a_blob_is_sent_once_and_its_digest_is_checked(
    ollama: md.Ollama, tmp_path: Path, anyio_backend: str
) -> None:
    file = tmp_path / "some.bin"
    file.write_bytes(anyio_backend.encode() * 100_000)
    digest = "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest()
    assert not await ollama.admin.has_blob(digest)
    assert await ollama.admin.upload(file) == digest
    assert await ollama.admin.has_blob(digest)
    assert await ollama.admin.upload(file) == digest


async def test_bytes_that_do_not_fit_their_digest_are_refused(ollama: md.Ollama) -> None:
    from majordomo.transport_types import HTTPRequest

    digest = "sha256:" + hashlib.sha256(b"something").hexdigest()
    with pytest.raises(md.InvalidRequestError, match="digest mismatch"):
        await ollama.admin._fetch(
            HTTPRequest(
                "POST", f"/api/blobs/{digest}", b"something else", "application/octet-stream"
            )
        )
    assert not await ollama.admin.has_blob(digest)


async def test_a_model_is_made_shown_copied_and_deleted(
    ollama: md.Ollama, ollama_files: Path
) -> None:
    told: list[PullProgress] = []
    digest = await ollama.admin.upload(ollama_files / "recite.gguf")
    await ollama.admin.create(
        "made",
        files={"model.gguf": digest},
        template="<|user|>{{ .System }} {{ .Prompt }}<|assistant|>",
        system="Be brief.",
        parameters={"num_ctx": 256, "stop": ["noise", "</s>"]},
        license="none",
        messages=[{"role": "user", "content": "hi"}],
        on_event=told.append,
    )
    assert (told[0].status, told[-1].status) == ("parsing GGUF", "success")
    shown = await ollama.admin.show("made")
    assert (shown["system"], shown["license"], shown["messages"]) == (
        "Be brief.",
        "none",
        [{"role": "user", "content": "hi"}],
    )
    assert "num_ctx" in shown["parameters"]
    assert shown["template"].startswith("<|user|>{{ .System }}")
    assert shown["model_info"]["llama.context_length"] == 2048
    await ollama.admin.copy("made", "me/twin")
    assert {"made:latest", "me/twin:latest"} <= {
        model["name"] for model in await ollama.admin.tags()
    }
    reply = await ollama.model("me/twin").generate("Say it.")
    assert reply.text.strip() == "The image shows colored"  # the parameter `stop` arrived
    async with ollama.admin.stream_create("child", from_model="made", system="Be long.") as stream:
        assert [progress.status async for progress in stream][-1] == "success"
    for name in ("made", "me/twin", "child"):
        await ollama.admin.delete(name)
        with pytest.raises(md.NotFoundError):
            await ollama.admin.show(name)


async def test_a_model_that_is_not_there_is_not_found(ollama: md.Ollama) -> None:
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


async def test_what_is_no_model_is_not_made(ollama: md.Ollama) -> None:
    digest = await ollama.admin.upload(b"no model at all")
    with pytest.raises(md.BackendError, match="GGUF"):
        await ollama.admin.create("broken", files={"model.gguf": digest})
    with pytest.raises(md.BackendError, match="no such file"):
        await ollama.admin.create("broken", files={"model.gguf": "sha256:" + "0" * 64})
    with pytest.raises(md.InvalidRequestError, match="template"):
        await ollama.admin.create("broken", from_model="recite", template="{{ .Nothing")
    assert "broken:latest" not in {model["name"] for model in await ollama.admin.tags()}


async def test_a_registry_that_does_not_answer_is_a_backend_error(ollama: md.Ollama) -> None:
    told: list[PullProgress] = []
    with pytest.raises(md.BackendError, match="pull model manifest"), anyio.fail_after(30):
        await ollama.admin.pull(NOWHERE, insecure=True, on_event=told.append)
    assert [progress.status for progress in told] == ["pulling manifest"]
    await ollama.admin.copy("recite", NOWHERE)
    with pytest.raises(md.BackendError, match="connection refused"), anyio.fail_after(30):
        await ollama.admin.push(NOWHERE, insecure=True)
    await ollama.admin.delete(NOWHERE)
    with pytest.raises(md.BackendError):
        await ollama.admin.push("nobody/nothing")


@pytest.fixture
def registry() -> Iterator[Registry]:
    held = Registry()
    yield held
    held.close()


async def test_a_model_goes_to_a_registry_and_comes_back_byte_by_byte(
    ollama: md.Ollama, registry: Registry, ollama_files: Path
) -> None:
    name = f"{registry.host}/me/mine:v1"
    digest = await ollama.admin.upload(ollama_files / "recite-pooled.gguf")
    await ollama.admin.create(name, files={"model.gguf": digest})
    told: list[PullProgress] = []
    await ollama.admin.push(name, insecure=True, on_event=told.append)
    assert (told[0].status, told[-1].status) == ("retrieving manifest", "success")
    assert sum(map(len, registry.blobs.values())) > 5_000_000
    assert any(
        progress.total == progress.completed and progress.digest in registry.blobs
        for progress in told
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


async def test_what_a_registry_has_not_is_said_so(ollama: md.Ollama, registry: Registry) -> None:
    with pytest.raises(md.BackendError, match="pull model manifest: file does not exist"):
        await ollama.admin.pull(f"{registry.host}/me/nothing", insecure=True)


async def test_a_blob_that_was_spoilt_on_its_way_makes_no_model(
    ollama: md.Ollama, registry: Registry, ollama_files: Path
) -> None:
    name = f"{registry.host}/me/spoilt"
    digest = await ollama.admin.upload(ollama_files / "tiny.gguf")
    await ollama.admin.create(
        name, files={"model.gguf": digest}, system=registry.host
    )  # a layer that nothing else holds
    await ollama.admin.push(name, insecure=True)
    await ollama.admin.delete(name)
    registry.spoilt = True
    with pytest.raises(md.BackendError, match="digest mismatch"):
        await ollama.admin.pull(name, insecure=True)
    with pytest.raises(md.NotFoundError):
        await ollama.admin.show(name)


# Chat


async def test_a_known_sentence_comes_back_whole(ollama: md.Ollama) -> None:
    reply = await ollama.model("recite").generate("Say it.")
    assert (reply.text, reply.finish_reason, reply.provider) == (SENTENCE, "stop", "ollama")
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (9, 8)


async def test_the_stream_s_pieces_are_the_sentence(ollama: md.Ollama) -> None:
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


def test_the_blocking_forms_say_the_same(ollama_url: str) -> None:
    with md.Ollama(ollama_url) as ollama:
        assert ollama.health_sync().ok
        assert ollama.model("recite").generate_sync("Say it.").text == SENTENCE
        with ollama.model("recite").stream_sync("Say it.") as stream:
            assert (
                "".join(event.text for event in stream if isinstance(event, md.llm.TextDelta))
                == SENTENCE
            )
        with ollama.admin.stream_generate_sync("recite", "Say it.") as words:
            assert "".join(words) == SENTENCE
        with ollama.admin.stream_create_sync("blocking", from_model="recite") as making:
            assert [progress.status for progress in making][-1] == "success"
        ollama.admin.delete_sync("blocking")
        assert len(ollama.embedding_model("embed").embed_sync("hi").vectors) == 1


async def test_seed_and_temperature_arrive(ollama: md.Ollama) -> None:
    model = ollama.model("endless")

    async def said(**settings: Any) -> str:
        return (await model.generate("Tell me.", max_tokens=12, **settings)).text

    assert (
        await said(seed=7, temperature=1.5)
        == await said(seed=7, temperature=1.5)
        != await said(seed=8, temperature=1.5)
    )
    assert await said(seed=7, temperature=0.0) == await said(seed=8, temperature=0.0)


async def test_leaving_a_stream_stops_the_engine(ollama_of_its_own: Any) -> None:
    """Ollama may keep the model's place for ever (its issue 17131), whoever hangs up; unloading the model gives it back."""
    async with md.Ollama(ollama_of_its_own.url, retries=md.Retries(attempts=1)) as ollama:
        model = ollama.model("endless")
        long = {"ollama": {"options": {"num_ctx": 8192}}}  # it ends by itself after 81,920 tokens
        with anyio.CancelScope() as scope:
            async with model.stream("Go on.", seed=1, extra=long) as stream:
                async for _ in stream:
                    scope.cancel()
        assert scope.cancelled_caught
        with anyio.fail_after(10):
            used = -1.0
            while used != (used := ollama_of_its_own.cpu_seconds()):
                await anyio.sleep(0.3)
        await ollama.admin.unload("endless")
        await gone(ollama, "endless")
        with anyio.fail_after(20):
            assert (
                await model.generate("Go on.", seed=1, max_tokens=3, extra=long)
            ).finish_reason == "length"


async def test_an_answer_has_the_wanted_shape(ollama: md.Ollama) -> None:
    reply = await ollama.model("tiny").generate("Who?", output=PERSON, seed=3, max_tokens=400)
    assert set(reply.output) == {"name", "age"}
    assert isinstance(reply.output["age"], int)
    text, reply = await streamed(
        ollama.model("tiny"), "Who?", output=Person, seed=3, max_tokens=400
    )
    assert reply.output == Person.model_validate_json(text)


async def test_thinking_comes_apart_from_the_answer(ollama: md.Ollama) -> None:
    model = ollama.model("thinker")
    for settings in ({}, {"reasoning": "low"}):
        reply = await model.generate("Hm?", **settings)
        assert (reply.thinking, reply.text) == ("Noise, as ever.", "It is colored.")
    again = await model.generate([md.user("Hm?"), reply.message, md.user("Again?")])
    assert again.text == "It is colored."
    made = await ollama.admin.generate("thinker", "Hm?", think=True)
    assert (made.thinking, made.text) == ("Noise, as ever.", "It is colored.")
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
    ("word", "settings"),
    [("tools", {"tools": [WEATHER]}), ("thinking", {"reasoning": "high"})],
    ids=["tools", "thinking"],
)
async def test_what_a_model_cannot_do_is_refused(
    ollama: md.Ollama, word: str, settings: dict[str, Any]
) -> None:
    with pytest.raises(md.InvalidRequestError, match=f"does not support {word}"):
        await ollama.model("recite").generate("hi", **settings)
    with pytest.raises(md.InvalidRequestError, match="does not support chat"):
        await ollama.model("embed").generate("hi")


async def test_an_image_is_not_sent_to_a_model_that_would_not_see_it(ollama: md.Ollama) -> None:
    """What the server does with it: "[img-0]" in the prompt, and an answer."""
    drawn = (
        await md.Offline().image_model("renderer").generate("a lighthouse", size="64x64")
    ).image
    with pytest.raises(md.UnsupportedError, match="has no vision"):
        await ollama.model("recite").generate([md.user("Look.", drawn)])
    with pytest.raises(md.UnsupportedError, match="has no vision"):
        await ollama.admin.generate("recite", "Look.", images=[drawn])
    plain = await ollama.admin.generate("recite", "Look.")
    blind = await ollama.admin.generate(
        "recite", "Look.", extra={"images": [base64.b64encode(drawn.data).decode()]}
    )
    assert blind.text == SENTENCE
    assert len(blind.context) > len(plain.context)


async def test_a_conversation_too_long_is_cut_unless_that_is_forbidden(ollama: md.Ollama) -> None:
    model = ollama.model("tiny")
    assert (await model.generate("word " * 3000, max_tokens=2)).usage.input_tokens == 512
    with pytest.raises(md.InvalidRequestError, match="context length"):
        await model.generate("word " * 3000, max_tokens=2, extra={"truncate": False})


# Completions


async def test_a_completion_tells_its_pieces_and_its_context(ollama: md.Ollama) -> None:
    pieces: list[str] = []
    made = await ollama.admin.generate("recite", "Say it.", on_event=pieces.append)
    assert (made.text, "".join(pieces), made.finish_reason, made.model) == (
        SENTENCE,
        SENTENCE,
        "stop",
        "recite",
    )
    assert len(pieces) > 1
    again = await ollama.admin.generate("recite", "Say it.", context=made.context)
    assert again.context[: len(made.context)] == made.context
    assert again.usage.input_tokens is not None and made.usage.input_tokens is not None
    assert again.usage.input_tokens > made.usage.input_tokens


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


async def test_a_raw_prompt_goes_as_it_is(ollama: md.Ollama) -> None:
    made = await ollama.admin.generate("recite", "<|assistant|>The image", raw=True)
    assert (made.text, made.context, made.usage.input_tokens) == (
        " shows colored noise, nothing else.",
        (),
        4,
    )


async def test_options_and_format_arrive(ollama: md.Ollama) -> None:
    made = await ollama.admin.generate("endless", "Go on.", options={"num_predict": 4, "seed": 1})
    assert (made.finish_reason, made.usage.output_tokens) == ("length", 4)
    made = await ollama.admin.generate(
        "tiny", "Who?", output=Person, options={"seed": 3, "num_predict": 400}
    )
    assert Person.model_validate_json(made.text)


async def test_a_gap_is_filled_by_a_model_that_can(ollama: md.Ollama) -> None:
    assert (
        await ollama.admin.generate("filler", "def add(a, b):", suffix="# end")
    ).text == "return a + b"
    with pytest.raises(md.InvalidRequestError, match="does not support insert"):
        await ollama.admin.generate("recite", "def add(a, b):", suffix="# end")


async def test_a_completion_is_refused_as_a_chat_is(ollama: md.Ollama) -> None:
    admin = ollama.admin
    with pytest.raises(md.InvalidRequestError, match="does not support thinking"):
        await admin.generate("recite", "hi", think=True)
    with pytest.raises(md.InvalidRequestError, match="does not support generate"):
        await admin.generate("embed", "hi")
    with pytest.raises(md.InvalidRequestError, match="duration"):
        await admin.load("recite", keep_alive="soon")
    with pytest.raises(md.BackendError, match="must be of type"):  # a 500, whatever one would think
        await admin.generate("recite", "hi", options={"temperature": "hot"})
    with pytest.raises(md.BackendError, match="unclosed action"):
        await admin.generate("recite", "hi", template="{{ .Nothing")


# Embeddings


@pytest.mark.parametrize("model", ["embed", "tiny"])
async def test_texts_become_vectors_of_length_one(ollama: md.Ollama, model: str) -> None:
    made = await ollama.embedding_model(model).embed(
        ["hello there", "something else", "hello there"]
    )
    assert [len(vector) for vector in made.vectors] == [64, 64, 64]
    assert all(abs(sum(number * number for number in vector) - 1) < 1e-4 for vector in made.vectors)
    assert made.vectors[0] == pytest.approx(made.vectors[2], abs=1e-5)
    assert made.vectors[0] != pytest.approx(made.vectors[1], abs=1e-3)
    assert made.usage.input_tokens


async def test_vectors_are_cut_to_the_wanted_dimensions(ollama: md.Ollama) -> None:
    made = await ollama.embedding_model("embed").embed("hello there", dimensions=8)
    assert len(made.vectors[0]) == 8
    assert abs(sum(number * number for number in made.vectors[0]) - 1) < 1e-4


async def test_a_text_too_long_to_embed_is_refused_where_cutting_is_forbidden(
    ollama: md.Ollama,
) -> None:
    with pytest.raises(md.InvalidRequestError, match="context length"):
        await ollama.embedding_model("embed").embed("word " * 5000, extra={"truncate": False})


# The hosted service, which nobody is signed in to


async def test_an_account_needs_the_service(ollama: md.Ollama) -> None:
    with anyio.fail_after(60):
        with pytest.raises((md.AuthenticationError, md.OverloadedError, md.BackendError)):
            await ollama.admin.account()
        with pytest.raises((md.AuthenticationError, md.BackendError)):
            await ollama.admin.web_search("lighthouses")
