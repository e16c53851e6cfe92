"""Tests of `Replay`: request matching, the reported difference, and invalid files."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import majordomo as md
from majordomo.framing.multipart import FormField, MultipartBody
from majordomo.settings import LOCAL
from majordomo.testing import Recorder, RecordingError, RecordingMissingError, Replay, plain_image
from majordomo.testing.body_encoding import (
    ImageStore,
    decode_body,
    encode_body,
    redact_chunks,
    split_body,
)
from majordomo.testing.fake_transports import FakeReply
from majordomo.testing.request_matching import normalize_request
from majordomo.transport_types import Deadline, HTTPRequest
from tests.servers.stable_diffusion import StableDiffusion
from tests.support.loopback import Handler, Loopback, chat_completion, http_response, reply_with

pytestmark = pytest.mark.anyio
Serve = Callable[[Handler], Loopback]


def normalized(
    body: Any, path: str = "/chat", content_type: str = "application/json", **settings: Any
) -> Any:
    data = body if isinstance(body, bytes) or hasattr(body, "chunks") else json.dumps(body).encode()
    settings_with_defaults = {
        "redact": str,
        "ignore": (),
        "add_image": ImageStore().add,
        **settings,
    }
    return normalize_request(
        HTTPRequest("POST", path, data, content_type), "/v1", **settings_with_defaults
    )


@pytest.fixture
async def folder(serve: Serve, tmp_path: Path) -> Path:
    server = serve(
        reply_with(
            http_response(chat_completion("hi")),
            http_response(chat_completion("hi")),
            http_response({"data": [{"id": "m"}]}),
        )
    )
    async with md.OpenAICompatible(server.url + "/v1", transport=Recorder(tmp_path)) as backend:
        await backend.model("m").generate("Tell me of the sea", temperature=0.5)
        await backend.model("m").generate(
            [md.system("You are a poet"), md.user("And of the wind")], seed=3
        )
        await backend.models()
    return tmp_path


def replaying_backend(folder: Path, **settings: Any) -> md.OpenAICompatible:
    return md.OpenAICompatible("http://nowhere.invalid/v1", transport=Replay(folder, **settings))


async def test_missing_recording_error_shows_the_difference(folder: Path) -> None:
    with pytest.raises(RecordingMissingError) as caught:
        await (
            replaying_backend(folder)
            .model("m")
            .generate([md.system("You are a poet"), md.user("And of the snow")], seed=4)
        )
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("POST /v1/chat/completions is not recorded in ")
    assert '-   "content": "And of the wind",' in lines
    assert '+   "content": "And of the snow",' in lines
    assert '- "seed": 3' in lines
    assert '+ "seed": 4' in lines
    assert "sea" not in caught.value.difference
    assert (caught.value.code, caught.value.retryable, caught.value.provider) == (
        "NOT_RECORDED",
        False,
        "openaicompatible",
    )


async def test_difference_shows_changes_in_long_texts_and_is_bounded(
    folder: Path, serve: Serve
) -> None:
    long = " ".join(f"word{number}" for number in range(3000))
    server = serve(reply_with(http_response(chat_completion("hi"))))
    async with md.OpenAICompatible(server.url + "/v1", transport=Recorder(folder)) as backend:
        await backend.model("m").generate(long)
    with pytest.raises(RecordingMissingError) as caught:
        await replaying_backend(folder).model("m").generate(long.replace("word1500", "other1500"))
    assert "other1500" in caught.value.difference
    assert len(caught.value.difference) < 2500
    with pytest.raises(RecordingMissingError) as caught:
        await replaying_backend(folder).model("m").generate(long[::-1])
    assert len(caught.value.difference.splitlines()) == 61
    assert "more lines" in caught.value.difference


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.6},
        {"temperature": None},
        {"seed": 1},
        {"stop": ["x"]},
        {"tools": [md.Tool("t", "d", {"type": "object"}, print)]},
    ],
    ids=str,
)
async def test_every_setting_is_compared(folder: Path, change: dict[str, Any]) -> None:
    with pytest.raises(RecordingMissingError):
        await (
            replaying_backend(folder)
            .model("m")
            .generate("Tell me of the sea", **{"temperature": 0.5, **change})
        )
    with pytest.raises(RecordingMissingError):
        await (
            replaying_backend(folder).model("other").generate("Tell me of the sea", temperature=0.5)
        )
    assert (
        await replaying_backend(folder).model("m").generate("Tell me of the sea", temperature=0.5)
    ).text == "hi"


async def test_used_up_recording_has_its_own_error_code(folder: Path) -> None:
    replay = Replay(folder)
    async with md.OpenAICompatible("http://nowhere.invalid/v1", transport=replay) as backend:
        assert len(replay.unused) == 3
        await backend.model("m").generate("Tell me of the sea", temperature=0.5)
        assert len(replay.unused) == 2
        with pytest.raises(
            RecordingMissingError, match=r"was recorded once in .*, but was sent once more"
        ) as caught:
            await backend.model("m").generate("Tell me of the sea", temperature=0.5)
        assert caught.value.code == "USED_UP"


async def test_error_for_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(RecordingMissingError, match="contains no recordings"):
        await replaying_backend(tmp_path / "nothing").model("m").generate("hi")


async def test_ignored_members_are_not_compared(serve: Serve, tmp_path: Path) -> None:
    server = serve(reply_with(http_response(chat_completion("hi"))))
    async with md.OpenAICompatible(
        server.url + "/v1", transport=Recorder(tmp_path, ignore=["seed"])
    ) as backend:
        await backend.model("m").generate("hi", seed=1)
    assert (
        await replaying_backend(tmp_path, ignore="seed").model("m").generate("hi", seed=2)
    ).text == "hi"
    with pytest.raises(RecordingMissingError):
        await replaying_backend(tmp_path).model("m").generate("hi", seed=2)


async def test_key_that_is_an_ordinary_word_does_not_prevent_matching(folder: Path) -> None:
    backend = md.OpenAICompatible(
        "http://nowhere.invalid/v1", api_key="Tell me", transport=Replay(folder)
    )
    assert (await backend.model("m").generate("Tell me of the sea", temperature=0.5)).text == "hi"


async def test_concurrent_jobs_get_their_own_responses(serve: Serve, tmp_path: Path) -> None:
    import anyio

    async def draw(transport: Any, url: str) -> dict[str, md.ImagePart]:
        images: dict[str, md.ImagePart] = {}

        async def generate_one(prompt: str) -> None:
            images[prompt] = (
                await provider.image_model("current").generate(prompt, size="64x64")
            ).image

        async with (
            md.StableDiffusion(url, transport=transport, max_concurrency=2) as provider,
            anyio.create_task_group() as group,
        ):
            for prompt in ("a red fox", "a blue hare"):
                group.start_soon(generate_one, prompt)
        return images

    server = serve(StableDiffusion(size=(64, 64)))
    first = await draw(Recorder(tmp_path), server.url)
    server.close()
    assert first["a red fox"] != first["a blue hare"]
    assert await draw(Replay(tmp_path), "http://nowhere.invalid") == first


class Echo:
    """A transport that answers with the request and a counter, in three chunks."""

    request_count = 0

    async def open(self, request: HTTPRequest, deadline: Deadline) -> Any:
        assert isinstance(request.body, bytes)
        self.request_count += 1
        body = request.path.encode() + b" " + request.body + b" %d" % self.request_count
        return FakeReply(200, {"content-type": "text/plain"}, [body[:3], body[3:10], body[10:]])

    async def aclose(self) -> None: ...


async def chunks_of(transport: Any, *requests: tuple[str, str]) -> list[list[bytes]]:
    wrapped = transport.wrap(Echo(), "", str)
    responses = []
    for path, body in requests:
        reply = await wrapped.open(HTTPRequest("POST", path, body.encode()), Deadline(LOCAL))
        responses.append([])
        while chunk := await reply.read():
            responses[-1].append(chunk)
    await wrapped.aclose()
    return responses


async def test_chunk_size_of_replayed_responses(tmp_path: Path) -> None:
    (recorded,) = await chunks_of(Recorder(tmp_path), ("/say", "abcdefghij"))
    assert recorded == [b"/sa", b"y abcde", b"fghij 1"]
    assert await chunks_of(Replay(tmp_path), ("/say", "abcdefghij")) == [recorded]
    assert await chunks_of(Replay(tmp_path, chunk_size="body"), ("/say", "abcdefghij")) == [
        [b"/say abcdefghij 1"]
    ]
    assert await chunks_of(Replay(tmp_path, chunk_size=4), ("/say", "abcdefghij")) == [
        [b"/say", b" abc", b"defg", b"hij ", b"1"]
    ]


IDS = [f"{digit * 8}-1111-4111-8111-{digit * 12}" for digit in "abcde"]


async def test_random_ids_map_to_recorded_ids_consistently(
    tmp_path: Path,
) -> None:
    a, b, c, d, e = IDS
    await chunks_of(
        Recorder(tmp_path), ("/job", a), ("/job", b), (f"/look/{a}", "1"), (f"/look/{b}", "1")
    )
    replay = Replay(tmp_path)
    responses = await chunks_of(
        replay, ("/job", c), ("/job", d), (f"/look/{d}", "1"), (f"/look/{c}", "1")
    )
    assert [b"".join(chunks).decode() for chunks in responses] == [
        f"/job {c} 1",
        f"/job {d} 2",
        f"/look/{d} 1 4",
        f"/look/{c} 1 3",
    ]
    assert replay.unused == []
    # Both recorded ids correspond to other ids already.
    with pytest.raises(RecordingMissingError):
        await chunks_of(Replay(tmp_path), ("/job", c), ("/job", d), (f"/look/{e}", "1"))


async def test_recorded_ids_match_only_themselves(tmp_path: Path) -> None:
    a, b = IDS[:2]
    await chunks_of(Recorder(tmp_path), (f"/look/{a}", "1"), (f"/look/{b}", "1"))
    replay = Replay(tmp_path)
    assert b"".join(*await chunks_of(replay, (f"/look/{b}", "1"))) == f"/look/{b} 1 2".encode()
    with pytest.raises(RecordingMissingError):
        await chunks_of(replay, (f"/look/{b}", "1"))
    assert b"".join(*await chunks_of(replay, (f"/look/{a}", "1"))) == f"/look/{a} 1 1".encode()


def test_only_random_ids_are_normalized() -> None:
    one, two = (
        "0b2f6f9e-5f5d-4c41-b9ea-b499526f516b",
        "1c2f6f9e-5f5d-4c41-b9ea-b499526f516c",
    )
    assert normalized({"id": one, "again": one}).key == normalized({"id": two, "again": two}).key
    assert normalized({"id": one, "again": one}).key != normalized({"id": one, "again": two}).key
    assert normalized({"id": one}).ids == (one,)
    assert normalized({"id": "call_1"}).key != normalized({"id": "call_2"}).key
    assert normalized({}, path=f"/history/{one}").key == normalized({}, path=f"/history/{two}").key


def test_form_boundary_is_not_compared() -> None:
    image = plain_image().data
    fields = [FormField("prompt", b"a hat"), FormField("image", image, "a.png", "image/png")]
    form = MultipartBody(fields)
    other = b"".join(form.chunks()).replace(form.content_type.partition("=")[2].encode(), b"other")
    assert (
        normalized(form, content_type=form.content_type).body
        == normalized(other, content_type="multipart/form-data; boundary=other").body
    )
    changed = MultipartBody([fields[0], FormField("image", image + b"x", "a.png", "image/png")])
    assert (
        normalized(form, content_type=form.content_type).key
        != normalized(changed, content_type=changed.content_type).key
    )
    assert (
        normalized(form, content_type=form.content_type, ignore=["prompt"]).body["form"][0]["name"]
        == "image"
    )


def test_member_order_and_whitespace_are_not_compared() -> None:
    assert normalized(b'{"a": 1, "b": [1, 2]}').key == normalized(b'{"b":[1,2],"a":1}').key
    assert normalized(b'{"a": 1, "b": [1, 2]}').key != normalized(b'{"b":[2,1],"a":1}').key
    assert normalized(b"plain").body == "plain"
    assert normalized(b"\xff\x00").body.startswith("<images/")
    assert normalized(b"").body is None


PNG = plain_image()
BODIES = {
    "empty": b"",
    "text": "Grüße\r\n\u2028\x85 🦊 \x0b\x0c\x1c".encode(),
    "binary": b"\xff\xfe\x00" * 10,
    "an image": PNG.data,
    "base64": b'{"data": [{"b64_json": "'
    + PNG.to_base64().encode()
    + b'"}, {"x": "'
    + PNG.to_base64().encode()
    + b'"}]}',
    "broken base64": b'"' + PNG.to_base64().encode()[:-1] + b'A="',
    "base64 with other spare bits": base64.b64encode(
        PNG.data + b"x" * (4 - len(PNG.data) % 3)
    ).replace(b"eA==", b"eB=="),
    "base64 that is cut": PNG.to_base64().encode()[:101],
    "long lines": json.dumps([{"name": "x" * 20, "of": {"a": 1, "b": "{,"}}] * 20).encode(),
}


@pytest.mark.parametrize("data", BODIES.values(), ids=BODIES.keys())
def test_body_encoding_round_trips(data: bytes) -> None:
    store = ImageStore()
    items = json.loads(json.dumps(encode_body(data, store.add)))
    assert decode_body(items, store.images_by_name.__getitem__) == data


def test_secret_across_chunks_is_redacted() -> None:
    chunks = [b"a sec", b"ret and \xff\xc3", b"\xbc again secret", b"", b"!"]
    body, lengths = redact_chunks(chunks, lambda text: text.replace("secret", "***"))
    assert body == b"a *** and \xff\xc3\xbc again ***!"
    assert sum(lengths) == len(body)
    assert b"".join(split_body(body, lengths)) == body
    assert redact_chunks(chunks, str) == (b"".join(chunks), [5, 10, 14, 0, 1])


def first_recording(folder: Path) -> Path:
    return sorted(folder.glob("*.json"))[0]


@pytest.mark.parametrize(
    ("corrupt", "message"),
    [
        (lambda recording: "{", "not valid JSON"),
        (lambda recording: json.dumps({**recording, "version": 99}), "got 99"),
        (lambda recording: json.dumps([1]), "not a recording"),
        (
            lambda recording: json.dumps(
                {**recording, "response": {**recording["response"], "chunks": "1"}}
            ),
            "edited",
        ),
        (
            lambda recording: json.dumps(
                {**recording, "response": {**recording["response"], "body": [{"file": "../x"}]}}
            ),
            "must be a file name",
        ),
        (
            lambda recording: json.dumps(
                {**recording, "response": {**recording["response"], "body": [{"file": "con"}]}}
            ),
            "must be a file name",
        ),
        (
            lambda recording: json.dumps(
                {**recording, "response": {**recording["response"], "body": [{"file": "x.png"}]}}
            ),
            "missing",
        ),
        (
            lambda recording: json.dumps(
                {**recording, "response": {**recording["response"], "body": [7]}}
            ),
            "items of body must be",
        ),
        (
            lambda recording: json.dumps(
                {**recording, "request": {**recording["request"], "path": "/x"}}
            ),
            "edited",
        ),
        (
            lambda recording: json.dumps(
                {
                    **recording,
                    "error": {"type": "Exception", "message": "", "code": "", "details": {}},
                }
            ),
            "not an error class",
        ),
    ],
)
async def test_invalid_file_is_named_in_the_error(
    folder: Path, corrupt: Callable[[Any], str], message: str
) -> None:
    path = first_recording(folder)
    path.write_text(corrupt(json.loads(path.read_text())))
    with pytest.raises(RecordingError, match=message) as caught:
        await replaying_backend(folder).model("m").generate("hi")
    assert path.name in str(caught.value)


def test_invalid_chunk_size_raises_configuration_error() -> None:
    for chunk_size in (0, -1, True, "half", 1.5):
        with pytest.raises(md.ConfigurationError, match="chunk_size"):
            Replay("x", chunk_size=chunk_size)  # type: ignore[arg-type]


async def test_unwritable_folder_raises_recording_error(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    server = serve(reply_with(http_response(chat_completion("hi"))))
    async with md.OpenAICompatible(
        server.url + "/v1", transport=Recorder(tmp_path / "file")
    ) as backend:
        with pytest.raises(RecordingError, match="cannot write into"):
            await backend.model("m").generate("hi")
