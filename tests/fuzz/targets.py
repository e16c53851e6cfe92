"""What is fuzzed: functions of any bytes that hold a promise or raise AssertionError. A typed error is an answer; anything else escapes.

They are pure and quick, so that millions of runs are affordable, and shared by the fuzzer (`fuzz/run.py`) and the tests that replay what it
found. The first byte or two of the bytes choose a variant and a slicing.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import majordomo as md
from majordomo import imagegen, llm
from majordomo.bots import safe_text
from majordomo.dialects.automatic1111.sdapi import SDAPICodec, decode_progress
from majordomo.dialects.comfyui.prompts import ComfyUICodec
from majordomo.dialects.comfyui.workflow import Workflow
from majordomo.dialects.errors import error_from_reply, retry_after
from majordomo.dialects.gemini.images import GeminiImagesCodec
from majordomo.dialects.ollama.images import OllamaImageStreamDecoder
from majordomo.dialects.openai.image_families import compatible_family
from majordomo.dialects.openai.images import OpenAIImagesCodec
from majordomo.dialects.stable_diffusion_cpp.jobs import SdcppJobsCodec
from majordomo.dialects.stable_diffusion_cpp.prompt_tag import CLOSING, OPENING, neutralize
from majordomo.errors import (
    BadResponseError,
    ConfigurationError,
    InvalidRequestError,
    MajordomoError,
)
from majordomo.framing.image_reply import ImageReplyDecoder
from majordomo.framing.json import decode_object
from majordomo.framing.lines import EventDecoder, JSONLinesDecoder, LineDecoder
from majordomo.framing.multipart import FormField, MultipartBody
from majordomo.imaging.sanitizer import strip_metadata
from majordomo.llm import Done
from majordomo.media.exif import read_exif, write_exif
from majordomo.media.generation_metadata import read_parameters
from majordomo.media.image_containers import avif_size, exif_block, with_exif
from majordomo.media.image_part import (
    ImagePart,
    check_size,
    png_text,
    read_header,
    read_orientation,
    read_texts,
    with_metadata,
)
from majordomo.routing import config as configuration
from majordomo.routing.model_string import canonical, parse, split
from tests.support.chat_dialects import DIALECTS, Dialect, join_deltas
from tests.support.h11_reference import decode_with_chunks, decode_with_h11

LIMITS = md.Limits()
CHAT = llm.Request(
    (md.user("hi"),), output={"type": "object"}, tool_choice="draw", tools=(md.Tool("draw"),)
)
IMAGE = imagegen.Request("a", seed=7)
LONGEST_WAIT = 1e9
Target = Callable[[bytes], None]


def cut(data: bytes) -> tuple[bytes, list[bytes]]:
    """The bytes behind a first one that says how they are sliced, and their slices: sizes of 1 to 16, repeated."""
    if not data:
        return b"", []
    sizes, rest = (data[0] % 16 + 1, data[0] // 16 + 1), data[1:]
    pieces, at, turn = [], 0, 0
    while at < len(rest):
        pieces.append(rest[at : at + sizes[turn % 2]])
        at += sizes[turn % 2]
        turn += 1
    return rest, pieces


@contextmanager
def from_a_backend() -> Iterator[None]:
    """Whatever an answer holds, it is neither the request nor the program that is wrong."""
    try:
        yield
    except MajordomoError as error:
        not_ours(error)
        shown(error)


def not_ours(error: MajordomoError) -> None:
    """Only the backend itself may call the request wrong, and then it gave a status."""
    assert error.status or not isinstance(error, (InvalidRequestError, ConfigurationError)), error


def shown(error: MajordomoError) -> None:
    assert str(error).isprintable()
    assert len(str(error)) <= 2048
    json.dumps(error.to_dict())
    assert error.retry_after is None or 0 <= error.retry_after <= LONGEST_WAIT


# Framing


def lines(data: bytes) -> None:
    if not data:
        return
    makers: list[Callable[[], Any]] = [
        lambda: EventDecoder(60),
        lambda: JSONLinesDecoder(60),
        lambda: LineDecoder(60),
        lambda: LineDecoder(60, bare_cr=True),
    ]
    make = makers[data[0] % 4]
    rest, pieces = cut(data[1:])

    def read(given: list[bytes]) -> tuple[list[bytes] | None, bytes]:
        decoder = make()
        try:
            frames = [frame for piece in given for frame in decoder.feed(piece)]
            last = decoder.finish()
        except BadResponseError:
            return None, b""
        return frames + (last if isinstance(last, list) else [last]), getattr(decoder, "stray", b"")

    assert read(pieces) == read([rest])


def images(data: bytes) -> None:
    rest, pieces = cut(data)

    def read(given: list[bytes]) -> tuple[Any, list[bytes]] | None:
        decoder = ImageReplyDecoder(limit=1 << 20, image_limit=1 << 10)
        try:
            for piece in given:
                decoder.feed(piece)
            return decoder.finish(), decoder.images
        except BadResponseError:
            return None

    sliced, whole = read(pieces), read([rest])
    assert sliced == whole
    if whole is not None:
        assert isinstance(whole[0], dict)
        assert all(whole[1])
        decode_object(rest)  # what it reads is JSON to begin with


def multipart(data: bytes) -> None:
    fields = []
    for part in data.split(b"\0\n"):
        name, _, rest = part.partition(b"=")
        fields.append(
            FormField(
                name.decode("utf-8", "replace"),
                rest,
                rest[:3].decode("latin-1") if rest[:1] == b"f" else "",
            )
        )
    try:
        body = MultipartBody(fields)
    except InvalidRequestError:
        return
    raw = b"".join(body.chunks())
    mark = b"--" + body.content_type.partition("boundary=")[2].encode()
    assert len(raw) == body.length
    assert raw.count(mark) == len(fields) + 1
    sections = raw.split(mark)[1:-1]
    for section, field in zip(sections, fields, strict=True):
        head, _, content = section.partition(b"\r\n\r\n")
        assert content == field.data + b"\r\n"
        assert head.count(b"\r\n") == 1  # a name adds no line


def chunks(data: bytes) -> None:
    """What the protocol library makes of the bytes is the same with the chunks read past it."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" if data[:1] < b"\x80" else b""
    _, pieces = cut(data[1:])
    pieces = [head + piece if index == 0 else piece for index, piece in enumerate(pieces)]
    assert decode_with_chunks(pieces)[0] == decode_with_h11(pieces)


# Chat


def _stream(dialect: Dialect) -> Target:
    def target(data: bytes) -> None:
        rest, pieces = cut(data)
        sliced, whole = _read(dialect, pieces), _read(dialect, [rest])
        assert _same(sliced) == _same(whole)
        for told, reply, error in (sliced, whole):
            _check_reply(reply)
            if error is None:
                assert isinstance(told[-1], Done)
            if isinstance(error, md.StreamBrokenError):
                assert error.partial.text == "".join(
                    event.text for event in told if isinstance(event, llm.TextDelta)
                )

    return target


def _read(
    dialect: Dialect, pieces: list[bytes]
) -> tuple[list[llm.ChatEvent], llm.Reply, MajordomoError | None]:
    decoder = dialect.codec.stream_decoder(CHAT, LIMITS)
    told: list[llm.ChatEvent] = []
    try:
        for piece in pieces:
            told += decoder.feed(piece)
        told += decoder.finish()
        if decoder.failure is not None:
            raise decoder.failure
    except MajordomoError as error:
        not_ours(error)
        shown(error)
        return told, decoder.reply, error
    return told, decoder.reply, None


def _same(read: tuple[list[llm.ChatEvent], llm.Reply, MajordomoError | None]) -> tuple[Any, ...]:
    told, _, error = read
    return join_deltas(told), type(error), error and error.code


def _whole(dialect: Dialect) -> Target:
    def target(data: bytes) -> None:
        with from_a_backend():
            _check_reply(dialect.codec.decode_reply(data, CHAT, LIMITS))

    return target


def _check_reply(reply: llm.Reply) -> None:
    assert all(
        isinstance(text, str)
        for text in (reply.text, reply.thinking, reply.model, reply.finish_reason)
    )
    for name in ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens"):
        counted = getattr(reply.usage, name)
        assert counted is None or (type(counted) is int and counted >= 0)
    assert llm.load_messages(llm.dump_messages([reply.message])) == [reply.message]


def messages(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    try:
        loaded = llm.load_messages(text)
    except InvalidRequestError:
        return
    assert llm.load_messages(llm.dump_messages(loaded)) == loaded


# Images in answers


def image_answers(data: bytes) -> None:
    """The same bytes as the answer of every image dialect."""
    for read in (_openai_whole, _openai_stream, _ollama_stream, _sdapi, _job, _gemini, _history):
        with from_a_backend():
            result = read(data)
            if isinstance(result, imagegen.Result):
                assert result.images
                json.dumps(result.raw)


def _openai_whole(data: bytes) -> imagegen.Result:
    codec = OpenAIImagesCodec(compatible_family, tag=False)
    decoder = codec.reply_decoder(LIMITS)
    decoder.feed(data)
    return codec.decode_reply(decoder, IMAGE, LIMITS)


def _openai_stream(data: bytes) -> imagegen.Result:
    decoder = OpenAIImagesCodec(compatible_family, tag=False).stream_decoder(IMAGE, LIMITS)
    for _ in decoder.feed(data):
        pass
    return decoder.finish()


def _ollama_stream(data: bytes) -> imagegen.Result:
    decoder = OllamaImageStreamDecoder(IMAGE, LIMITS)
    for _ in decoder.feed(data):
        pass
    return decoder.finish()


def _sdapi(data: bytes) -> imagegen.Result:
    with from_a_backend():
        decode_progress(data, LIMITS)
    codec = SDAPICodec()
    decoder = codec.reply_decoder(LIMITS)
    decoder.feed(data)
    return codec.decode_reply(decoder, IMAGE, LIMITS)


def _job(data: bytes) -> object:
    codec = SdcppJobsCodec()
    with from_a_backend():
        codec.decode_job_id(data, LIMITS)
    decoder = codec.reply_decoder(LIMITS)
    decoder.feed(data)
    return codec.decode_status(decoder, IMAGE, LIMITS).result


def _gemini(data: bytes) -> imagegen.Result:
    codec = GeminiImagesCodec()
    decoder = codec.reply_decoder(LIMITS)
    decoder.feed(data)
    return codec.decode_reply(decoder, IMAGE, LIMITS)


_GRAPH = {
    "1": {"class_type": "KSampler", "inputs": {"positive": ["2", 0], "seed": 1}},
    "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a"}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}},
}
_COMFY = ComfyUICodec(Workflow.parse(_GRAPH, {"prompt": ("2", "text")}))


def _history(data: bytes) -> object:
    with from_a_backend():
        _COMFY.decode_queue_position(data, "j", LIMITS)
    with from_a_backend():
        _COMFY.decode_submitted(data, LIMITS)
    return _COMFY.decode_history(data, "j", LIMITS)


# Images


def guard(data: bytes) -> None:
    """Headers, texts and the ways to rewrite a file without decoding it; and what is decoded, within a small limit."""
    header = read_header(data)
    orientation = read_orientation(data)
    assert 1 <= orientation <= 8
    assert sum(map(len, read_texts(data).values())) <= 40 * (1 << 20)
    assert len(png_text(data)) <= len(data)
    if header is None:
        try:
            ImagePart(data)
        except InvalidRequestError as error:
            assert error.code == "NOT_AN_IMAGE"
        else:
            raise AssertionError("no header, and yet an image")
        return
    picture = ImagePart(data)
    assert (picture.mime, picture.width, picture.height) == (
        header.mime,
        header.width,
        header.height,
    )
    assert picture.width > 0 and picture.height > 0
    too_large = picture.width * picture.height > 10_000
    try:
        check_size(picture, max_pixels=10_000, max_side=1000)
    except InvalidRequestError as error:
        assert error.code == "IMAGE_TOO_LARGE"
        too_large = True
    else:
        assert not too_large
    _rewritten(data)
    assert isinstance(picture.parameters, dict)
    try:
        image = picture.to_pil(max_pixels=10_000, max_side=1000)
    except InvalidRequestError:
        return
    assert not too_large
    assert image.width * image.height <= 10_000


def _rewritten(data: bytes) -> None:
    try:
        clean = strip_metadata(data)
    except InvalidRequestError as error:
        assert error.code == "BAD_IMAGE"
    else:
        assert strip_metadata(clean) == clean
    try:
        made = with_metadata(data, "a fox\nSteps: 5")
    except InvalidRequestError:
        return
    assert read_header(made) == read_header(data)


def exif(data: bytes) -> None:
    told = read_exif(data)
    assert 1 <= told.orientation <= 8
    assert (
        read_exif(write_exif(told.orientation, "x" + told.comment)).orientation == told.orientation
    )
    exif_block(b"\xff\xd8" + data)
    exif_block(b"RIFF" + data)
    avif_size(b"\0\0\0\x10ftypavif" + data)
    if data:
        written = with_exif(b"\xff\xd8\xff\xd9", data[:60_000])
        assert exif_block(written) == data[:60_000]


def parameters(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    for name in ("parameters", "prompt"):
        found = read_parameters({name: text})
        assert all(isinstance(key, str) for key in found)
        for field, kind in {
            "seed": int,
            "steps": int,
            "cfg_scale": (int, float),
            "strength": (int, float),
            "size": str,
            "model": str,
        }.items():
            assert field not in found or isinstance(found[field], kind)  # type: ignore[arg-type]  # kinds, one or two
        json.dumps(found, allow_nan=False)


# Words


def errors(data: bytes) -> None:
    """Status, headers and body, parted by an empty line, of any answer that is no success."""
    status = int.from_bytes(data[:2], "big") % 1000
    head, _, body = data[2:].partition(b"\n\n")
    headers = {}
    for line in head.split(b"\n"):
        name, _, value = line.partition(b":")
        headers[name.decode("latin-1").lower()] = value.decode("latin-1")
    error = error_from_reply(status, headers, body, now=1.8e9)
    shown(error)
    assert error.status == status
    assert error.retryable in (True, False)


def waits(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    for name in ("retry-after", "retry-after-ms"):
        for now in (0.0, 1.8e9):
            wait = retry_after({name: text}, now=now)
            assert wait is None or 0 <= wait <= LONGEST_WAIT
    body = json.dumps(
        {"error": {"details": [{"@type": "x.RetryInfo", "retryDelay": text}]}}
    ).encode()
    shown(error_from_reply(429, {}, body))


def config(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "majordomo.toml"
        path.write_bytes(data)
        try:
            read = configuration.load(path)
        except ConfigurationError as error:
            shown(error)
            return
    assert read.source == str(path)
    repr(read)


def names(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    try:
        members = split(text)
        read = [parse(member) for member in members]
    except ConfigurationError as error:
        shown(error)
        return
    for name in read:
        assert canonical(name.provider) == name.provider
        if not name.base_url and not name.options:
            again = parse(str(name))
            assert (again.provider, again.model) == (name.provider, name.model)
        if name.key is not None:
            key = name.key.reveal()
            elsewhere = (
                key in name.model or key in name.base_url
            )  # who writes it twice sees it once
            assert len(key) < 8 or elsewhere or key not in str(name)


def words(data: bytes) -> None:
    """What makes a stranger's text harmless: once is enough, and nothing is left."""
    text = data.decode("utf-8", "replace")
    once, found = neutralize(text)
    assert neutralize(once) == (once, False)
    assert OPENING not in once.lower() and CLOSING not in once.lower()
    assert found == (once != text)
    safe = safe_text(text)
    assert safe_text(safe) == safe
    assert "@everyone" not in safe.lower()


TARGETS: dict[str, Target] = {
    "lines": lines,
    "images": images,
    "multipart": multipart,
    "chunks": chunks,
    **{f"stream_{dialect.name}": _stream(dialect) for dialect in DIALECTS},
    **{f"whole_{dialect.name}": _whole(dialect) for dialect in DIALECTS},
    "messages": messages,
    "image_answers": image_answers,
    "guard": guard,
    "exif": exif,
    "parameters": parameters,
    "errors": errors,
    "waits": waits,
    "config": config,
    "names": names,
    "words": words,
}
