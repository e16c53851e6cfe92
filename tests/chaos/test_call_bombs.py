"""Small answers that would be large: measured as the peak of a process of its own, with the library's default limits."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator

import pytest

from tests.chaos.malformed_images import PNG, jpeg, png, webp
from tests.support.loopback import Handler, Loopback, always, chat, images_reply, whole
from tests.support.sample_images import png_chunk

Serve = Callable[[Handler], Loopback]
MIB = 1 << 20
PLAIN, IMAGES = 64, 200  # MiB that one hostile answer may add

CLIENT = """
import asyncio, json, sys
import majordomo as md

url, kind = sys.argv[1:]

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("VmHWM", "VmRSS"))}

async def main():
    async with md.OpenAICompatible(url, retries=md.Retries(attempts=1)) as provider:
        async def ask():
            try:
                if kind == "image":
                    result = await provider.image_model("m").generate("a")
                    return f"{len(result.images)} images {[len(detail.settings) for detail in result.details]}"
                if kind == "heard":
                    async with provider.model("m").stream("a") as stream:
                        async for _ in stream:
                            pass
                    return "heard"
                if kind.startswith("embedded"):
                    return f"{len((await provider.embedding_model('m').embed('a')).vector):,} numbers"
                return (await provider.model("m").generate("a")).text[:20]
            except md.MajordomoError as error:
                return f"{type(error).__name__} {error.code}"
        await ask()
        open("/proc/self/clear_refs", "w").write("5")
        before = int(peak()["VmRSS"])
        told = await ask()
        print(json.dumps([told, (int(peak()["VmHWM"]) - before) / 1024]))

asyncio.run(main())
"""


def measured(url: str, kind: str) -> tuple[str, float]:
    """What became of the second call, and MiB that it added at its peak."""
    made = subprocess.run(
        [sys.executable, "-c", CLIENT, url + "/v1", kind],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    told, added = json.loads(made.stdout)
    return told, added


def packed(pieces: Iterator[bytes]) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    return b"".join(packer.compress(piece) for piece in pieces) + packer.flush()


def zipped(before: bytes, again: bytes, times: int, after: bytes = b"") -> bytes:
    def pieces() -> Iterator[bytes]:
        yield before
        for _ in range(times):
            yield again
        yield after

    return whole(packed(pieces()), headers={"content-encoding": "gzip"})


def many(value: bytes, mib: int, before: bytes = b'{"a":[', after: bytes = b"1]}") -> bytes:
    """JSON of so many MiB: this value again and again."""
    again = value * (MIB // len(value))
    return whole(before + again * mib + after)


def inflating(kind: bytes, head: bytes, mib: int = 64, times: int = 4) -> bytes:
    """A PNG with chunks that inflate to so many MiB each."""
    packer = zlib.compressobj(9)
    body = head + b"".join(packer.compress(b"a" * MIB) for _ in range(mib)) + packer.flush()
    return png(
        16, 12, *[png_chunk(kind, body)] * times, data=zlib.compress(bytes(12 * (1 + 16 * 3)))
    )


def event(data: bytes) -> bytes:
    return whole(
        b"data: " + data + b"\n\ndata: [DONE]\n\n", headers={"content-type": "text/event-stream"}
    )


def embedded(vector: bytes) -> bytes:
    return whole(b'{"data":[{"index":0,"embedding":' + vector + b"}]}")


def padded(text: bytes, mib: int) -> bytes:
    """So many MiB of answer that weigh no more for it."""
    return TALK + text + b" " * ((mib << 20) - len(text)) + b"1]}"


FINE = {
    "said": whole(chat("hi")),
    "heard": whole(chat("hi")),
    "image": whole(images_reply(PNG)),
    "embedded": embedded(b"[1]"),
}
DISTINCT = b"".join(b'"%07d",' % number for number in range(100_000))
HOLLOW = json.dumps({"b64_json": base64.b64encode(PNG).decode()}).encode() + b","
DELTA = b'{"choices":[{"delta":{"content":"hi"},"finish_reason":"stop"}],"a":['
TALK = b'{"choices":[{"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"a":['
BOMBS: dict[str, tuple[str, Callable[[], bytes], int]] = {
    "gzip of blanks": ("said", lambda: zipped(b"{", b" " * MIB, 512), PLAIN),
    "gzip of a text": ("said", lambda: zipped(b'{"a":"', b"x" * MIB, 512), PLAIN),
    "gzip of gzip": ("said", lambda: zipped(b"", packed(iter([bytes(MIB)] * 64)), 64), PLAIN),
    "empty lists": ("said", lambda: many(b"[],", 15, TALK), PLAIN),
    "empty objects": ("said", lambda: many(b"{},", 15, TALK), PLAIN),
    "small objects": ("said", lambda: many(b'{"a":1},', 15, TALK), PLAIN),
    "numbers": ("said", lambda: many(b"1.5,", 15, TALK), PLAIN),
    "large numbers": ("said", lambda: many(b"1" * 4000 + b",", 15, TALK), PLAIN),
    "texts": ("said", lambda: whole(TALK + DISTINCT * 15 + b"1]}"), PLAIN),
    "keys": (
        "said",
        lambda: whole(TALK + b"{" + DISTINCT.replace(b",", b":1,") * 13 + b'"a":1}]}'),
        PLAIN,
    ),
    "lists in an error": (
        "said",
        lambda: whole(b'{"error":[' + b"[]," * 5_000_000 + b"1]}", 500),
        PLAIN,
    ),
    "lists instead of a stream": ("heard", lambda: many(b"[],", 15, TALK), PLAIN),
    "as many numbers as may be": ("said", lambda: whole(padded(b"1.5," * 580_000, 14)), PLAIN),
    "as many lists as may be": ("said", lambda: whole(padded(b"[]," * 225_000, 14)), PLAIN),
    "one letter that widens a text": (
        "said",
        lambda: whole(json.dumps(chat("hi" * (7 << 20) + "\U0001f600"), ensure_ascii=False)),
        PLAIN,
    ),
    "an escape that widens a text": (
        "said",
        lambda: whole(json.dumps(chat("hi" * (7 << 20) + "\U0001f600"))),
        PLAIN,
    ),
    "a letter that widens an event": (
        "heard",
        lambda: event(DELTA + b'"' + b"x" * 4_000_000 + "\U0001f600".encode() + b'"]}'),
        PLAIN,
    ),
    "lists in an event": ("heard", lambda: event(DELTA + b"[]," * 1_350_000 + b"1]}"), PLAIN),
    "numbers in an event": ("heard", lambda: event(DELTA + b"1.5," * 1_000_000 + b"1]}"), PLAIN),
    "lists in many events": (
        "heard",
        lambda: event(b"\n\ndata: ".join([DELTA + b"[]," * 200_000 + b"1]}"] * 20)),
        PLAIN,
    ),
    "numbers of a vector": (
        "embedded",
        lambda: embedded(b"[" + b"1.5," * 4_000_000 + b"1]"),
        PLAIN,
    ),
    "whole numbers of a vector": (
        "embedded",
        lambda: embedded(b"[" + b"1000," * 3_000_000 + b"1]"),
        PLAIN,
    ),
    "as many numbers of a vector as may be": (
        "embedded",
        lambda: embedded(b"[" + b"1000," * 1_000_000 + b"1]"),
        PLAIN,
    ),
    "lists for vectors": ("embedded", lambda: many(b"[],", 15, b'{"data":['), PLAIN),
    "base64 of a vector": (
        "embedded",
        lambda: embedded(b'"' + base64.b64encode(bytes(11 << 20)) + b'"'),
        PLAIN,
    ),
    "as much base64 of a vector as may be": (
        "embedded",
        lambda: embedded(b'"' + base64.b64encode(bytes(4_300_000)) + b'"'),
        PLAIN,
    ),
    "a vector of 100 MiB": ("embedded", lambda: embedded(b"[" + b" " * (100 << 20) + b"1]"), PLAIN),
    "gzip of an image": (
        "image",
        lambda: zipped(b'{"data":[{"b64_json":"', b"A" * MIB, 400, b'"}]}'),
        IMAGES,
    ),
    "gzip of lists": (
        "image",
        lambda: zipped(b'{"data":[', b"[]," * (MIB // 3), 120, b"1]}"),
        IMAGES,
    ),
    "gzip of images": (
        "image",
        lambda: zipped(b'{"data":[', HOLLOW * (MIB // len(HOLLOW)), 120, b"1]}"),
        IMAGES,
    ),
    "gzip of links": (
        "image",
        lambda: zipped(b'{"data":[', b'{"url":"x"},' * (MIB // 12), 120, b"1]}"),
        IMAGES,
    ),
    "text that inflates": (
        "image",
        lambda: whole(images_reply(inflating(b"zTXt", b"parameters\0\0"))),
        IMAGES,
    ),
    "text that inflates, of another kind": (
        "image",
        lambda: whole(images_reply(inflating(b"iTXt", b"a\0\1\0\0\0"))),
        IMAGES,
    ),
    "a profile that inflates": (
        "image",
        lambda: whole(images_reply(inflating(b"iCCP", b"a\0\0"))),
        IMAGES,
    ),
    "a PNG of 3,600 Mpx": ("image", lambda: whole(images_reply(png(60_000, 60_000))), IMAGES),
    "a JPEG of 4,290 Mpx": ("image", lambda: whole(images_reply(jpeg(65_500, 65_500))), IMAGES),
    "a WebP of 2**48 px": ("image", lambda: whole(images_reply(webp(1 << 24, 1 << 24))), IMAGES),
    "a hundred thousand chunks": (
        "image",
        lambda: whole(
            images_reply(png(9, 9, *[png_chunk(b"tEXt", b"k%d\0v" % n) for n in range(100_000)]))
        ),
        IMAGES,
    ),
}


@pytest.mark.parametrize("name", ["empty lists", "lists in an event", "a PNG of 3,600 Mpx"])
def test_a_bomb_costs_no_more_than_promised(name: str, serve: Serve) -> None:
    kind, make, most = BOMBS[name]
    told, added = measured(serve(always(FINE[kind], make())).url, kind)
    assert added < most, told


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_no_bomb_costs_more_than_promised(name: str, serve: Serve) -> None:
    kind, make, most = BOMBS[name]
    told, added = measured(serve(always(FINE[kind], make())).url, kind)
    assert added < most, told
