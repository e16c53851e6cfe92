"""Small responses that expand to large ones.

The peak memory is measure in a process of its own, with the library's default limits.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator

import pytest

from tests.chaos.malformed_images import PNG, jpeg, png, webp
from tests.support import system
from tests.support.loopback import (
    Handler,
    Loopback,
    chat_completion,
    http_response,
    images_reply,
    reply_with,
)
from tests.support.sample_images import png_chunk

pytestmark = system.needs_proc
Serve = Callable[[Handler], Loopback]
MIB = 1 << 20
# MiB that one hostile response may add.
MAX_REPLY_MIB, MAX_IMAGE_MIB = 64, 200

CLIENT = """
import asyncio, json, sys
import majordomo as md

url, kind = sys.argv[1:]

def peak():
    lines = open("/proc/self/status").read().splitlines()
    fields = [line for line in lines if line.startswith(("VmHWM", "VmRSS"))]
    return {line.split(":")[0]: line.split()[1] for line in fields}

async def main():
    async with md.OpenAICompatible(url, retries=md.Retries(attempts=1)) as provider:
        async def ask():
            try:
                if kind == "image":
                    result = await provider.image_model("m").generate("a")
                    settings = [len(detail.settings) for detail in result.details]
                    return f"{len(result.images)} images {settings}"
                if kind == "stream":
                    async with provider.model("m").stream("a") as stream:
                        async for _ in stream:
                            pass
                    return "stream"
                if kind.startswith("embedding"):
                    embedding = await provider.embedding_model("m").embed("a")
                    return f"{len(embedding.vector):,} numbers"
                return (await provider.model("m").generate("a")).text[:20]
            except md.MajordomoError as error:
                return f"{type(error).__name__} {error.code}"
        await ask()
        open("/proc/self/clear_refs", "w").write("5")
        before = int(peak()["VmRSS"])
        outcome = await ask()
        print(json.dumps([outcome, (int(peak()["VmHWM"]) - before) / 1024]))

asyncio.run(main())
"""


def measure(url: str, kind: str) -> tuple[str, float]:
    """Return the result of the second call and the MiB that it added at its peak."""
    process = subprocess.run(
        [sys.executable, "-c", CLIENT, url + "/v1", kind],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    outcome, added = json.loads(process.stdout)
    return outcome, added


def gzipped(parts: Iterator[bytes]) -> bytes:
    compressor = zlib.compressobj(1, zlib.DEFLATED, 31)
    return b"".join(compressor.compress(part) for part in parts) + compressor.flush()


def gzip_response(before: bytes, repeated: bytes, times: int, after: bytes = b"") -> bytes:
    def parts() -> Iterator[bytes]:
        yield before
        for _ in range(times):
            yield repeated
        yield after

    return http_response(gzipped(parts()), headers={"content-encoding": "gzip"})


def many(value: bytes, mib: int, before: bytes = b'{"a":[', after: bytes = b"1]}") -> bytes:
    """JSON of so many MiB: one value repeated."""
    repeated = value * (MIB // len(value))
    return http_response(before + repeated * mib + after)


def inflating(kind: bytes, head: bytes, mib: int = 64, times: int = 4) -> bytes:
    """A PNG with `times` chunks that inflate to `mib` MiB each."""
    compressor = zlib.compressobj(9)
    body = head + b"".join(compressor.compress(b"a" * MIB) for _ in range(mib)) + compressor.flush()
    return png(
        16, 12, *[png_chunk(kind, body)] * times, data=zlib.compress(bytes(12 * (1 + 16 * 3)))
    )


def event(data: bytes) -> bytes:
    return http_response(
        b"data: " + data + b"\n\ndata: [DONE]\n\n", headers={"content-type": "text/event-stream"}
    )


def embedding(vector: bytes) -> bytes:
    return http_response(b'{"data":[{"index":0,"embedding":' + vector + b"}]}")


def padded(text: bytes, mib: int) -> bytes:
    """A response of so many MiB, mostly spaces, which cost no memory when parsed."""
    return REPLY_PREFIX + text + b" " * ((mib << 20) - len(text)) + b"1]}"


VALID = {
    "reply": http_response(chat_completion("hi")),
    "stream": http_response(chat_completion("hi")),
    "image": http_response(images_reply(PNG)),
    "embedding": embedding(b"[1]"),
}
DISTINCT_TEXTS = b"".join(b'"%07d",' % number for number in range(100_000))
IMAGE_ENTRY = json.dumps({"b64_json": base64.b64encode(PNG).decode()}).encode() + b","
DELTA_PREFIX = b'{"choices":[{"delta":{"content":"hi"},"finish_reason":"stop"}],"a":['
REPLY_PREFIX = (
    b'{"choices":[{"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"a":['
)
BOMBS: dict[str, tuple[str, Callable[[], bytes], int]] = {
    "gzip of spaces": ("reply", lambda: gzip_response(b"{", b" " * MIB, 512), MAX_REPLY_MIB),
    "gzip of a text": ("reply", lambda: gzip_response(b'{"a":"', b"x" * MIB, 512), MAX_REPLY_MIB),
    "gzip of gzip": (
        "reply",
        lambda: gzip_response(b"", gzipped(iter([bytes(MIB)] * 64)), 64),
        MAX_REPLY_MIB,
    ),
    "empty lists": ("reply", lambda: many(b"[],", 15, REPLY_PREFIX), MAX_REPLY_MIB),
    "empty objects": ("reply", lambda: many(b"{},", 15, REPLY_PREFIX), MAX_REPLY_MIB),
    "small objects": ("reply", lambda: many(b'{"a":1},', 15, REPLY_PREFIX), MAX_REPLY_MIB),
    "numbers": ("reply", lambda: many(b"1.5,", 15, REPLY_PREFIX), MAX_REPLY_MIB),
    "large numbers": ("reply", lambda: many(b"1" * 4000 + b",", 15, REPLY_PREFIX), MAX_REPLY_MIB),
    "texts": (
        "reply",
        lambda: http_response(REPLY_PREFIX + DISTINCT_TEXTS * 15 + b"1]}"),
        MAX_REPLY_MIB,
    ),
    "keys": (
        "reply",
        lambda: http_response(
            REPLY_PREFIX + b"{" + DISTINCT_TEXTS.replace(b",", b":1,") * 13 + b'"a":1}]}'
        ),
        MAX_REPLY_MIB,
    ),
    "lists in an error": (
        "reply",
        lambda: http_response(b'{"error":[' + b"[]," * 5_000_000 + b"1]}", 500),
        MAX_REPLY_MIB,
    ),
    "lists instead of a stream": ("stream", lambda: many(b"[],", 15, REPLY_PREFIX), MAX_REPLY_MIB),
    "the maximum of numbers": (
        "reply",
        lambda: http_response(padded(b"1.5," * 580_000, 14)),
        MAX_REPLY_MIB,
    ),
    "the maximum of lists": (
        "reply",
        lambda: http_response(padded(b"[]," * 225_000, 14)),
        MAX_REPLY_MIB,
    ),
    "one wide character in a text": (
        "reply",
        lambda: http_response(
            json.dumps(chat_completion("hi" * (7 << 20) + "\U0001f600"), ensure_ascii=False)
        ),
        MAX_REPLY_MIB,
    ),
    "one escaped wide character in a text": (
        "reply",
        lambda: http_response(json.dumps(chat_completion("hi" * (7 << 20) + "\U0001f600"))),
        MAX_REPLY_MIB,
    ),
    "one wide character in an event": (
        "stream",
        lambda: event(DELTA_PREFIX + b'"' + b"x" * 4_000_000 + "\U0001f600".encode() + b'"]}'),
        MAX_REPLY_MIB,
    ),
    "lists in an event": (
        "stream",
        lambda: event(DELTA_PREFIX + b"[]," * 1_350_000 + b"1]}"),
        MAX_REPLY_MIB,
    ),
    "numbers in an event": (
        "stream",
        lambda: event(DELTA_PREFIX + b"1.5," * 1_000_000 + b"1]}"),
        MAX_REPLY_MIB,
    ),
    "lists in many events": (
        "stream",
        lambda: event(b"\n\ndata: ".join([DELTA_PREFIX + b"[]," * 200_000 + b"1]}"] * 20)),
        MAX_REPLY_MIB,
    ),
    "floats of a vector": (
        "embedding",
        lambda: embedding(b"[" + b"1.5," * 4_000_000 + b"1]"),
        MAX_REPLY_MIB,
    ),
    "integers of a vector": (
        "embedding",
        lambda: embedding(b"[" + b"1000," * 3_000_000 + b"1]"),
        MAX_REPLY_MIB,
    ),
    "the maximum of numbers in a vector": (
        "embedding",
        lambda: embedding(b"[" + b"1000," * 1_000_000 + b"1]"),
        MAX_REPLY_MIB,
    ),
    "lists for vectors": ("embedding", lambda: many(b"[],", 15, b'{"data":['), MAX_REPLY_MIB),
    "base64 of a vector": (
        "embedding",
        lambda: embedding(b'"' + base64.b64encode(bytes(11 << 20)) + b'"'),
        MAX_REPLY_MIB,
    ),
    "the maximum of base64 of a vector": (
        "embedding",
        lambda: embedding(b'"' + base64.b64encode(bytes(4_300_000)) + b'"'),
        MAX_REPLY_MIB,
    ),
    "a vector of 100 MiB": (
        "embedding",
        lambda: embedding(b"[" + b" " * (100 << 20) + b"1]"),
        MAX_REPLY_MIB,
    ),
    "gzip of an image": (
        "image",
        lambda: gzip_response(b'{"data":[{"b64_json":"', b"A" * MIB, 400, b'"}]}'),
        MAX_IMAGE_MIB,
    ),
    "gzip of lists": (
        "image",
        lambda: gzip_response(b'{"data":[', b"[]," * (MIB // 3), 120, b"1]}"),
        MAX_IMAGE_MIB,
    ),
    "gzip of images": (
        "image",
        lambda: gzip_response(b'{"data":[', IMAGE_ENTRY * (MIB // len(IMAGE_ENTRY)), 120, b"1]}"),
        MAX_IMAGE_MIB,
    ),
    "gzip of links": (
        "image",
        lambda: gzip_response(b'{"data":[', b'{"url":"x"},' * (MIB // 12), 120, b"1]}"),
        MAX_IMAGE_MIB,
    ),
    "text that inflates": (
        "image",
        lambda: http_response(images_reply(inflating(b"zTXt", b"parameters\0\0"))),
        MAX_IMAGE_MIB,
    ),
    "text that inflates, of another kind": (
        "image",
        lambda: http_response(images_reply(inflating(b"iTXt", b"a\0\1\0\0\0"))),
        MAX_IMAGE_MIB,
    ),
    "a profile that inflates": (
        "image",
        lambda: http_response(images_reply(inflating(b"iCCP", b"a\0\0"))),
        MAX_IMAGE_MIB,
    ),
    "a PNG of 3,600 Mpx": (
        "image",
        lambda: http_response(images_reply(png(60_000, 60_000))),
        MAX_IMAGE_MIB,
    ),
    "a JPEG of 4,290 Mpx": (
        "image",
        lambda: http_response(images_reply(jpeg(65_500, 65_500))),
        MAX_IMAGE_MIB,
    ),
    "a WebP of 2**48 px": (
        "image",
        lambda: http_response(images_reply(webp(1 << 24, 1 << 24))),
        MAX_IMAGE_MIB,
    ),
    "a hundred thousand chunks": (
        "image",
        lambda: http_response(
            images_reply(png(9, 9, *[png_chunk(b"tEXt", b"k%d\0v" % n) for n in range(100_000)]))
        ),
        MAX_IMAGE_MIB,
    ),
}


@pytest.mark.parametrize("name", ["empty lists", "lists in an event", "a PNG of 3,600 Mpx"])
def test_bomb_stays_within_the_memory_limit(name: str, serve: Serve) -> None:
    kind, make, max_mib = BOMBS[name]
    outcome, added = measure(serve(reply_with(VALID[kind], make())).url, kind)
    assert added < max_mib, outcome


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_every_bomb_stays_within_the_memory_limit(name: str, serve: Serve) -> None:
    kind, make, max_mib = BOMBS[name]
    outcome, added = measure(serve(reply_with(VALID[kind], make())).url, kind)
    assert added < max_mib, outcome
