"""Fuzz targets: functions of any bytes that check a guarantee or raise AssertionError.

A typed error is a valid result; any other exception is a finding. Targets are pure and fast, so
that millions of runs are possible. The fuzzer (`fuzz/run.py`) and the tests that replay its
findings share them. The first one or two bytes choose a variant and a slicing.
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
from majordomo.dialects.fal import models as fal_models
from majordomo.dialects.fal.queue import FalQueueCodec
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
from majordomo.media.image_containers import avif_size, exif_block, png_text, with_exif
from majordomo.media.image_header import read_header, read_orientation, read_texts, with_metadata
from majordomo.media.image_limits import check_size
from majordomo.media.image_part import ImagePart
from majordomo.routing import config as configuration
from majordomo.routing.model_string import canonical, parse, split
from tests.support.chat_dialects import DIALECTS, Dialect, join_deltas
from tests.support.h11_reference import PARSERS, decode, decode_with_h11

LIMITS = md.Limits()
CHAT = llm.Request(
    (md.user("hi"),), output={"type": "object"}, tool_choice="draw", tools=(md.Tool("draw"),)
)
IMAGE = imagegen.Request("a", seed=7)
MAX_WAIT_SECONDS = 1e9
Target = Callable[[bytes], None]


def sliced_input(data: bytes) -> tuple[bytes, list[bytes]]:
    """Return the bytes after the first one, and their slices.

    The first byte chooses two sizes of 1 to 16, which alternate.
    """
    if not data:
        return b"", []
    sizes, rest = (data[0] % 16 + 1, data[0] // 16 + 1), data[1:]
    parts, offset, turn = [], 0, 0
    while offset < len(rest):
        parts.append(rest[offset : offset + sizes[turn % 2]])
        offset += sizes[turn % 2]
        turn += 1
    return rest, parts


@contextmanager
def as_backend_response() -> Iterator[None]:
    """Check that an error about a response blames neither the request nor the configuration."""
    try:
        yield
    except MajordomoError as error:
        check_error_class(error)
        check_message(error)


def check_error_class(error: MajordomoError) -> None:
    """Check that a request error has a status: only the backend may call the request invalid."""
    assert error.status or not isinstance(error, (InvalidRequestError, ConfigurationError)), error


def check_message(error: MajordomoError) -> None:
    assert str(error).isprintable()
    assert len(str(error)) <= 2048
    json.dumps(error.to_dict())
    assert error.retry_after is None or 0 <= error.retry_after <= MAX_WAIT_SECONDS


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
    rest, parts = sliced_input(data[1:])

    def read(slices: list[bytes]) -> tuple[list[bytes] | None, bytes]:
        decoder = make()
        try:
            frames = [frame for part in slices for frame in decoder.feed(part)]
            last = decoder.finish()
        except BadResponseError:
            return None, b""
        return frames + (last if isinstance(last, list) else [last]), getattr(decoder, "stray", b"")

    assert read(parts) == read([rest])


def images(data: bytes) -> None:
    rest, parts = sliced_input(data)

    def read(slices: list[bytes]) -> tuple[Any, list[bytes]] | None:
        decoder = ImageReplyDecoder(limit=1 << 20, image_limit=1 << 10)
        try:
            for part in slices:
                decoder.feed(part)
            return decoder.finish(), decoder.images
        except BadResponseError:
            return None

    sliced, unsliced = read(parts), read([rest])
    assert sliced == unsliced
    if unsliced is not None:
        assert isinstance(unsliced[0], dict)
        assert all(unsliced[1])
        # The decoder must not accept anything but JSON.
        decode_object(rest)


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
        # A field name must not add a line.
        assert head.count(b"\r\n") == 1


def responses(data: bytes) -> None:
    """Check that the parser of responses gives the same result as h11, with each library."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" if data[:1] < b"\x80" else b""
    rest, parts = sliced_input(data[1:])
    parts = [head + part if index == 0 else part for index, part in enumerate(parts)]
    expected = decode_with_h11(parts)
    if {"content-length", "transfer-encoding"} <= expected.headers.keys():
        # h11 would keep the connection.
        expected = expected._replace(reusable=False)
    for parser in PARSERS:
        assert decode(parts, parser=parser) == expected
        assert decode([head + rest] if rest else [], parser=parser) == expected


# Chat


def _stream(dialect: Dialect) -> Target:
    def target(data: bytes) -> None:
        rest, parts = sliced_input(data)
        sliced, unsliced = _decode(dialect, parts), _decode(dialect, [rest])
        assert _comparable(sliced) == _comparable(unsliced)
        for events, reply, error in (sliced, unsliced):
            _check_reply(reply)
            if error is None:
                assert isinstance(events[-1], Done)
            if isinstance(error, md.StreamBrokenError):
                assert error.partial.text == "".join(
                    event.text for event in events if isinstance(event, llm.TextDelta)
                )

    return target


def _decode(
    dialect: Dialect, parts: list[bytes]
) -> tuple[list[llm.ChatEvent], llm.Reply, MajordomoError | None]:
    decoder = dialect.codec.stream_decoder(CHAT, LIMITS)
    events: list[llm.ChatEvent] = []
    try:
        for part in parts:
            events += decoder.feed(part)
        events += decoder.finish()
        if decoder.failure is not None:
            raise decoder.failure
    except MajordomoError as error:
        check_error_class(error)
        check_message(error)
        return events, decoder.reply, error
    return events, decoder.reply, None


def _comparable(
    read: tuple[list[llm.ChatEvent], llm.Reply, MajordomoError | None],
) -> tuple[Any, ...]:
    events, _, error = read
    return join_deltas(events), type(error), error and error.code


def _complete_reply(dialect: Dialect) -> Target:
    def target(data: bytes) -> None:
        with as_backend_response():
            _check_reply(dialect.codec.decode_reply(data, CHAT, LIMITS))

    return target


def _check_reply(reply: llm.Reply) -> None:
    assert all(
        isinstance(text, str)
        for text in (reply.text, reply.thinking, reply.model, reply.finish_reason)
    )
    for name in ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens"):
        count = getattr(reply.usage, name)
        assert count is None or (type(count) is int and count >= 0)
    assert llm.load_messages(llm.dump_messages([reply.message])) == [reply.message]


def messages(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    try:
        loaded = llm.load_messages(text)
    except InvalidRequestError:
        return
    assert llm.load_messages(llm.dump_messages(loaded)) == loaded


# Image replies


def image_replies(data: bytes) -> None:
    """Decode the bytes as the reply of every image dialect."""
    readers = (_openai_reply, _openai_stream, _ollama_stream, _sdapi, _job, _gemini, _history, _fal)
    for read in readers:
        with as_backend_response():
            result = read(data)
            if isinstance(result, imagegen.Result):
                assert result.images
                json.dumps(result.raw)


def _openai_reply(data: bytes) -> imagegen.Result:
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
    with as_backend_response():
        decode_progress(data, LIMITS)
    codec = SDAPICodec()
    decoder = codec.reply_decoder(LIMITS)
    decoder.feed(data)
    return codec.decode_reply(decoder, IMAGE, LIMITS)


def _job(data: bytes) -> object:
    codec = SdcppJobsCodec()
    with as_backend_response():
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
    with as_backend_response():
        _COMFY.decode_queue_position(data, "j", LIMITS)
    with as_backend_response():
        _COMFY.decode_submitted(data, LIMITS)
    return _COMFY.decode_history(data, "j", LIMITS)


def _fal(data: bytes) -> None:
    codec = FalQueueCodec("fal-ai/flux/dev")
    with as_backend_response():
        codec.decode_job_id(data, LIMITS)
    for decode_catalog in (fal_models.decode_models, fal_models.decode_model_input):
        with as_backend_response():
            decode_catalog(data, LIMITS)
    reply = codec.reply_decoder(LIMITS)
    reply.feed(data)
    with as_backend_response():
        codec.decode_status(reply, IMAGE, LIMITS)
    files = codec.decode_files(data, IMAGE, LIMITS)
    json.dumps(files.raw)


# Images


def image_limits(data: bytes) -> None:
    """Check headers, texts and rewriting without decoding, then decoding within a small limit."""
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
            raise AssertionError("an image without a header was accepted")
        return
    image = ImagePart(data)
    assert (image.mime, image.width, image.height) == (
        header.mime,
        header.width,
        header.height,
    )
    assert image.width > 0 and image.height > 0
    too_large = image.width * image.height > 10_000
    try:
        check_size(image, max_pixels=10_000, max_side=1000)
    except InvalidRequestError as error:
        assert error.code == "IMAGE_TOO_LARGE"
        too_large = True
    else:
        assert not too_large
    _check_rewriting(data)
    assert isinstance(image.parameters, dict)
    try:
        decoded = image.to_pil(max_pixels=10_000, max_side=1000)
    except InvalidRequestError:
        return
    assert not too_large
    assert decoded.width * decoded.height <= 10_000


def _check_rewriting(data: bytes) -> None:
    try:
        clean = strip_metadata(data)
    except InvalidRequestError as error:
        assert error.code == "BAD_IMAGE"
    else:
        assert strip_metadata(clean) == clean
    try:
        written = with_metadata(data, "a fox\nSteps: 5")
    except InvalidRequestError:
        return
    assert read_header(written) == read_header(data)


def exif(data: bytes) -> None:
    events = read_exif(data)
    assert 1 <= events.orientation <= 8
    assert (
        read_exif(write_exif(events.orientation, "x" + events.comment)).orientation
        == events.orientation
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
            assert field not in found or isinstance(found[field], kind)  # type: ignore[arg-type]  # one type or several
        json.dumps(found, allow_nan=False)


# Texts


def errors(data: bytes) -> None:
    """Decode status, headers and body of an error response, separated by an empty line."""
    status = int.from_bytes(data[:2], "big") % 1000
    head, _, body = data[2:].partition(b"\n\n")
    headers = {}
    for line in head.split(b"\n"):
        name, _, value = line.partition(b":")
        headers[name.decode("latin-1").lower()] = value.decode("latin-1")
    error = error_from_reply(status, headers, body, now=1.8e9)
    check_message(error)
    assert error.status == status
    assert error.retryable in (True, False)


def retry_delays(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    for name in ("retry-after", "retry-after-ms"):
        for now in (0.0, 1.8e9):
            wait = retry_after({name: text}, now=now)
            assert wait is None or 0 <= wait <= MAX_WAIT_SECONDS
    body = json.dumps(
        {"error": {"details": [{"@type": "x.RetryInfo", "retryDelay": text}]}}
    ).encode()
    check_message(error_from_reply(429, {}, body))


def config(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "majordomo.toml"
        path.write_bytes(data)
        try:
            read = configuration.load(path)
        except ConfigurationError as error:
            check_message(error)
            return
    assert read.source == str(path)
    repr(read)


def model_strings(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    try:
        members = split(text)
        read = [parse(member) for member in members]
    except ConfigurationError as error:
        check_message(error)
        return
    for name in read:
        assert canonical(name.provider) == name.provider
        if not name.base_url and not name.options:
            copy = parse(str(name))
            assert (copy.provider, copy.model) == (name.provider, name.model)
        if name.key is not None:
            key = name.key.reveal()
            # A key that is also part of the model or the URL stays visible there.
            is_elsewhere = key in name.model or key in name.base_url
            assert len(key) < 8 or is_elsewhere or key not in str(name)


def untrusted_text(data: bytes) -> None:
    """Check that neutralizing untrusted text is idempotent and complete."""
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
    "responses": responses,
    **{f"stream_{dialect.name}": _stream(dialect) for dialect in DIALECTS},
    **{f"reply_{dialect.name}": _complete_reply(dialect) for dialect in DIALECTS},
    "messages": messages,
    "image_replies": image_replies,
    "image_limits": image_limits,
    "exif": exif,
    "parameters": parameters,
    "errors": errors,
    "retry_delays": retry_delays,
    "config": config,
    "model_strings": model_strings,
    "untrusted_text": untrusted_text,
}
