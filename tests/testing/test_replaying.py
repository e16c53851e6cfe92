"""A replay finds what is the same request, says how another differs, and trusts no file."""

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
from majordomo.testing.body_encoding import Files, cut, decode_body, encode_body, hidden_body
from majordomo.testing.fake_transports import FakeReply
from majordomo.testing.request_matching import normalize_request
from majordomo.transport_types import Deadline, HTTPRequest
from tests.servers.stable_diffusion import StableDiffusion
from tests.support.loopback import Handler, Loopback, always, chat, whole

pytestmark = pytest.mark.anyio
Serve = Callable[[Handler], Loopback]


def asked(
    body: Any, path: str = "/chat", content_type: str = "application/json", **settings: Any
) -> Any:
    data = body if isinstance(body, bytes) or hasattr(body, "chunks") else json.dumps(body).encode()
    given = {"redact": str, "ignore": (), "keep": Files().keep, **settings}
    return normalize_request(HTTPRequest("POST", path, data, content_type), "/v1", **given)


@pytest.fixture
async def folder(serve: Serve, tmp_path: Path) -> Path:
    server = serve(always(whole(chat("hi")), whole(chat("hi")), whole({"data": [{"id": "m"}]})))
    async with md.OpenAICompatible(server.url + "/v1", transport=Recorder(tmp_path)) as backend:
        await backend.model("m").generate("Tell me of the sea", temperature=0.5)
        await backend.model("m").generate(
            [md.system("You are a poet"), md.user("And of the wind")], seed=3
        )
        await backend.models()
    return tmp_path


def replayed(folder: Path, **settings: Any) -> md.OpenAICompatible:
    return md.OpenAICompatible("http://nowhere.invalid/v1", transport=Replay(folder, **settings))


async def test_a_miss_shows_the_difference_to_the_nearest_request(folder: Path) -> None:
    with pytest.raises(RecordingMissingError) as caught:
        await (
            replayed(folder)
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


async def test_a_change_deep_in_a_long_text_is_seen_and_the_difference_is_bounded(
    folder: Path, serve: Serve
) -> None:
    long = " ".join(f"word{number}" for number in range(3000))
    server = serve(always(whole(chat("hi"))))
    async with md.OpenAICompatible(server.url + "/v1", transport=Recorder(folder)) as backend:
        await backend.model("m").generate(long)
    with pytest.raises(RecordingMissingError) as caught:
        await replayed(folder).model("m").generate(long.replace("word1500", "other1500"))
    assert "other1500" in caught.value.difference
    assert len(caught.value.difference) < 2500
    with pytest.raises(RecordingMissingError) as caught:
        await replayed(folder).model("m").generate(long[::-1])
    assert len(caught.value.difference.splitlines()) == 61
    assert "lines more" in caught.value.difference


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
async def test_every_setting_counts(folder: Path, change: dict[str, Any]) -> None:
    with pytest.raises(RecordingMissingError):
        await (
            replayed(folder)
            .model("m")
            .generate("Tell me of the sea", **{"temperature": 0.5, **change})
        )
    with pytest.raises(RecordingMissingError):
        await replayed(folder).model("other").generate("Tell me of the sea", temperature=0.5)
    assert (
        await replayed(folder).model("m").generate("Tell me of the sea", temperature=0.5)
    ).text == "hi"


async def test_what_is_asked_too_often_is_told_apart_from_what_is_unknown(folder: Path) -> None:
    replay = Replay(folder)
    async with md.OpenAICompatible("http://nowhere.invalid/v1", transport=replay) as backend:
        assert len(replay.unused) == 3
        await backend.model("m").generate("Tell me of the sea", temperature=0.5)
        assert len(replay.unused) == 2
        with pytest.raises(
            RecordingMissingError, match=r"was recorded once in .* and is asked once more"
        ) as caught:
            await backend.model("m").generate("Tell me of the sea", temperature=0.5)
        assert caught.value.code == "USED_UP"


async def test_an_empty_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(RecordingMissingError, match="holds no recordings"):
        await replayed(tmp_path / "nothing").model("m").generate("hi")


async def test_members_that_do_not_count_are_left_out(serve: Serve, tmp_path: Path) -> None:
    server = serve(always(whole(chat("hi"))))
    async with md.OpenAICompatible(
        server.url + "/v1", transport=Recorder(tmp_path, ignore=["seed"])
    ) as backend:
        await backend.model("m").generate("hi", seed=1)
    assert (await replayed(tmp_path, ignore="seed").model("m").generate("hi", seed=2)).text == "hi"
    with pytest.raises(RecordingMissingError):
        await replayed(tmp_path).model("m").generate("hi", seed=2)


async def test_a_key_that_is_an_ordinary_word_does_not_hide_the_request(folder: Path) -> None:
    backend = md.OpenAICompatible(
        "http://nowhere.invalid/v1", api_key="Tell me", transport=Replay(folder)
    )
    assert (await backend.model("m").generate("Tell me of the sea", temperature=0.5)).text == "hi"


async def test_jobs_at_once_each_get_their_own_answers(serve: Serve, tmp_path: Path) -> None:
    import anyio

    async def draw(transport: Any, url: str) -> dict[str, md.ImagePart]:
        drawn: dict[str, md.ImagePart] = {}

        async def one(prompt: str) -> None:
            drawn[prompt] = (
                await provider.image_model("current").generate(prompt, size="64x64")
            ).image

        async with (
            md.StableDiffusion(url, transport=transport, max_concurrency=2) as provider,
            anyio.create_task_group() as group,
        ):
            for prompt in ("a red fox", "a blue hare"):
                group.start_soon(one, prompt)
        return drawn

    server = serve(StableDiffusion(size=(64, 64)))
    first = await draw(Recorder(tmp_path), server.url)
    server.close()
    assert first["a red fox"] != first["a blue hare"]
    assert await draw(Replay(tmp_path), "http://nowhere.invalid") == first


class Echo:
    """A port that answers what it was asked and how many requests that makes, in three pieces."""

    asked = 0

    async def open(self, request: HTTPRequest, deadline: Deadline) -> Any:
        assert isinstance(request.body, bytes)
        self.asked += 1
        said = request.path.encode() + b" " + request.body + b" %d" % self.asked
        return FakeReply(200, {"content-type": "text/plain"}, [said[:3], said[3:10], said[10:]])

    async def aclose(self) -> None: ...


async def pieces_of(transport: Any, *requests: tuple[str, str]) -> list[list[bytes]]:
    port = transport.wrap(Echo(), "", str)
    got = []
    for path, body in requests:
        reply = await port.open(HTTPRequest("POST", path, body.encode()), Deadline(LOCAL))
        got.append([])
        while piece := await reply.read():
            got[-1].append(piece)
    await port.aclose()
    return got


async def test_answers_are_cut_as_they_came_or_as_one_likes(tmp_path: Path) -> None:
    (recorded,) = await pieces_of(Recorder(tmp_path), ("/say", "abcdefghij"))
    assert recorded == [b"/sa", b"y abcde", b"fghij 1"]
    assert await pieces_of(Replay(tmp_path), ("/say", "abcdefghij")) == [recorded]
    assert await pieces_of(Replay(tmp_path, pieces="whole"), ("/say", "abcdefghij")) == [
        [b"/say abcdefghij 1"]
    ]
    assert await pieces_of(Replay(tmp_path, pieces=4), ("/say", "abcdefghij")) == [
        [b"/say", b" abc", b"defg", b"hij ", b"1"]
    ]


IDS = [f"{digit * 8}-1111-4111-8111-{digit * 12}" for digit in "abcde"]


async def test_ids_made_at_random_stand_for_those_of_then_and_always_for_the_same(
    tmp_path: Path,
) -> None:
    a, b, c, d, e = IDS
    await pieces_of(
        Recorder(tmp_path), ("/job", a), ("/job", b), (f"/look/{a}", "1"), (f"/look/{b}", "1")
    )
    replay = Replay(tmp_path)
    told = await pieces_of(
        replay, ("/job", c), ("/job", d), (f"/look/{d}", "1"), (f"/look/{c}", "1")
    )
    assert [b"".join(pieces).decode() for pieces in told] == [
        f"/job {c} 1",
        f"/job {d} 2",
        f"/look/{d} 1 4",
        f"/look/{c} 1 3",
    ]
    assert replay.unused == []
    with pytest.raises(RecordingMissingError):  # both of then have found theirs
        await pieces_of(Replay(tmp_path), ("/job", c), ("/job", d), (f"/look/{e}", "1"))


async def test_ids_that_were_recorded_are_themselves(tmp_path: Path) -> None:
    a, b = IDS[:2]
    await pieces_of(Recorder(tmp_path), (f"/look/{a}", "1"), (f"/look/{b}", "1"))
    replay = Replay(tmp_path)
    assert b"".join(*await pieces_of(replay, (f"/look/{b}", "1"))) == f"/look/{b} 1 2".encode()
    with pytest.raises(RecordingMissingError):
        await pieces_of(replay, (f"/look/{b}", "1"))
    assert b"".join(*await pieces_of(replay, (f"/look/{a}", "1"))) == f"/look/{a} 1 1".encode()


def test_ids_made_by_chance_do_not_count_and_others_do() -> None:
    one, two = "0b2f6f9e-5f5d-4c41-b9ea-b499526f516b", "1c2f6f9e-5f5d-4c41-b9ea-b499526f516c"
    assert asked({"id": one, "again": one}).key == asked({"id": two, "again": two}).key
    assert asked({"id": one, "again": one}).key != asked({"id": one, "again": two}).key
    assert asked({"id": one}).ids == (one,)
    assert asked({"id": "call_1"}).key != asked({"id": "call_2"}).key
    assert asked({}, path=f"/history/{one}").key == asked({}, path=f"/history/{two}").key


def test_a_form_is_the_same_whatever_its_boundary() -> None:
    image = plain_image().data
    fields = [FormField("prompt", b"a hat"), FormField("image", image, "a.png", "image/png")]
    form = MultipartBody(fields)
    other = b"".join(form.chunks()).replace(form.content_type.partition("=")[2].encode(), b"other")
    assert (
        asked(form, content_type=form.content_type).body
        == asked(other, content_type="multipart/form-data; boundary=other").body
    )
    changed = MultipartBody([fields[0], FormField("image", image + b"x", "a.png", "image/png")])
    assert (
        asked(form, content_type=form.content_type).key
        != asked(changed, content_type=changed.content_type).key
    )
    assert (
        asked(form, content_type=form.content_type, ignore=["prompt"]).body["form"][0]["name"]
        == "image"
    )


def test_the_order_of_members_and_spaces_do_not_count() -> None:
    assert asked(b'{"a": 1, "b": [1, 2]}').key == asked(b'{"b":[1,2],"a":1}').key
    assert asked(b'{"a": 1, "b": [1, 2]}').key != asked(b'{"b":[2,1],"a":1}').key
    assert asked(b"plain").body == "plain"
    assert asked(b"\xff\x00").body.startswith("<images/")
    assert asked(b"").body is None


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
def test_a_body_is_kept_exactly(data: bytes) -> None:
    files = Files()
    pieces = json.loads(json.dumps(encode_body(data, files.keep)))
    assert decode_body(pieces, files.met.__getitem__) == data


def test_a_secret_across_pieces_is_hidden_and_the_pieces_still_make_the_body() -> None:
    pieces = [b"a sec", b"ret and \xff\xc3", b"\xbc again secret", b"", b"!"]
    body, lengths = hidden_body(pieces, lambda text: text.replace("secret", "***"))
    assert body == b"a *** and \xff\xc3\xbc again ***!"
    assert sum(lengths) == len(body)
    assert b"".join(cut(body, lengths)) == body
    assert hidden_body(pieces, str) == (b"".join(pieces), [5, 10, 14, 0, 1])


def first_of(folder: Path) -> Path:
    return sorted(folder.glob("*.json"))[0]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda told: "{", "no JSON"),
        (lambda told: json.dumps({**told, "version": 99}), "version 99"),
        (lambda told: json.dumps([1]), "no recording"),
        (lambda told: json.dumps({**told, "answer": {**told["answer"], "pieces": "1"}}), "edited"),
        (
            lambda told: json.dumps(
                {**told, "answer": {**told["answer"], "body": [{"file": "../x"}]}}
            ),
            "no name",
        ),
        (
            lambda told: json.dumps(
                {**told, "answer": {**told["answer"], "body": [{"file": "x.png"}]}}
            ),
            "missing",
        ),
        (
            lambda told: json.dumps({**told, "answer": {**told["answer"], "body": [7]}}),
            "nobody recorded",
        ),
        (lambda told: json.dumps({**told, "request": {**told["request"], "path": "/x"}}), "edited"),
        (
            lambda told: json.dumps(
                {**told, "error": {"kind": "Exception", "message": "", "code": "", "details": {}}}
            ),
            "no kind",
        ),
    ],
)
async def test_a_file_that_was_spoilt_is_named(
    folder: Path, spoil: Callable[[Any], str], words: str
) -> None:
    path = first_of(folder)
    path.write_text(spoil(json.loads(path.read_text())))
    with pytest.raises(RecordingError, match=words) as caught:
        await replayed(folder).model("m").generate("hi")
    assert path.name in str(caught.value)


def test_pieces_are_a_size() -> None:
    for wrong in (0, -1, True, "half", 1.5):
        with pytest.raises(md.ConfigurationError, match="pieces"):
            Replay("x", pieces=wrong)  # type: ignore[arg-type]


async def test_a_folder_that_cannot_be_written_is_named(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    server = serve(always(whole(chat("hi"))))
    async with md.OpenAICompatible(
        server.url + "/v1", transport=Recorder(tmp_path / "file")
    ) as backend:
        with pytest.raises(RecordingError, match="cannot write into"):
            await backend.model("m").generate("hi")
