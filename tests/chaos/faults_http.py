"""Broken HTTP: status lines, provisional answers, lengths, chunks, headers, codings, and answers that nobody asked for.

Clients of httpx tell of bytes that are no HTTP with the same error as of a connection that closes, so over them both are the same to us. What such
a client does with an answer that nobody asked for is its own affair (docs/reliability.md).
"""

from __future__ import annotations

import functools
import gzip
import json
import zlib

import majordomo as md
from tests.chaos.fault import Fault, Runner, chat_backend
from tests.chaos.server_behaviors import (
    Serve,
    chunked,
    drips,
    fine_or,
    floods,
    hangs,
    is_fine,
    sends,
    stays,
)
from tests.support.loopback import Peer, whole

BODY = json.dumps(chat_backend("openaicompatible").dialect.whole).encode()
OTHER = BODY.replace(b'"Gr\\u00fc', b'"for somebody else')
assert OTHER != BODY
LENGTH = b"content-length: %d\r\n" % len(BODY)
JSON = b"content-type: application/json\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
SOON = md.Timeout(first_byte=0.3, idle=0.3, total=0.5)  # for what hangs on purpose


def answer(headers: bytes = LENGTH, body: bytes = BODY, first: bytes = OK) -> bytes:
    return first + JSON + headers + b"\r\n" + body


def _own(runner: Runner) -> bool:
    return runner.own


def _broken(family: str, faults: dict[str, Serve | bytes]) -> list[Fault]:
    """No answer can be read."""
    return [
        Fault(
            family,
            name,
            sends(serve) if isinstance(serve, bytes) else serve,
            (md.BadResponseError, md.ConnectionFailedError),
            retryable=True,
            kept=False,
        )
        for name, serve in faults.items()
    ]


def _odd(family: str, faults: dict[str, bytes | Serve]) -> list[Fault]:
    """Odd, but to be read."""
    return [
        Fault(family, name, stays(serve) if isinstance(serve, bytes) else serve, is_fine)
        for name, serve in faults.items()
    ]


FIRST_LINES = _broken(
    "first line",
    {
        "another protocol": b"SSH-2.0-OpenSSH_9\r\n",
        "no version": b"200 OK\r\n\r\n",
        "no status": b"HTTP/1.1\r\n\r\n",
        "two digits": answer(first=b"HTTP/1.1 20 OK\r\n"),
        "four digits": answer(first=b"HTTP/1.1 2000 OK\r\n"),
        "below zero": answer(first=b"HTTP/1.1 -20 OK\r\n"),
        "letters": answer(first=b"HTTP/1.1 abc OK\r\n"),
        "digits of another script": answer(first="HTTP/1.1 ٢٠٠ OK\r\n".encode()),
        "HTTP/2 in words": answer(first=b"HTTP/2 200\r\n"),
        "of an internet radio": answer(first=b"ICY 200 OK\r\n"),
        "a byte order mark before": b"\xef\xbb\xbf" + answer(),
        "NUL in the reason": answer(first=b"HTTP/1.1 200 O\0K\r\n"),
        "a bare page, as of HTTP/0.9": b"<html>hi</html>\n" * 20,
        "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "a frame of HTTP/2": b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64"  # noqa: ISC003
        + b"\0\0\x08\x07\0\0\0\0\0"
        + b"\0" * 8,
        "an alert of TLS": b"\x15\x03\x01\x00\x02\x02\x46",
        "a request": b"POST / HTTP/1.1\r\nhost: x\r\n\r\n",
        "binary": bytes(range(256)) * 8,
        "only line ends": b"\r\n" * 200_000,
        "without an end": floods(b"HTTP/1.1 200 ", again=b"O" * 65536),
    },
) + _odd(
    "first line",
    {
        "no reason": answer(first=b"HTTP/1.1 200\r\n"),
        "an empty reason": answer(first=b"HTTP/1.1 200 \r\n"),
        "a long reason": answer(first=b"HTTP/1.1 200 " + b"O" * 4000 + b"\r\n"),
        "HTTP/9.9": answer(first=b"HTTP/9.9 200 OK\r\n"),
        "HTTP/1.0": answer(first=b"HTTP/1.0 200 OK\r\n"),
        "bare line feeds": answer().replace(b"\r\n", b"\n"),
    },
)
FIRST_LINES += [
    Fault(
        "first line",
        f"status {status}",
        stays(answer(first=b"HTTP/1.1 %d X\r\n" % status)),
        md.BadResponseError,
        code="BAD_STATUS",
    )
    for status in (600, 999)
]

PROVISIONAL = _odd(
    "provisional answers",
    {
        "100 before": b"HTTP/1.1 100 Continue\r\n\r\n" + answer(),
        "102, 103 and 199 before": b"HTTP/1.1 102 X\r\n\r\nHTTP/1.1 103 X\r\nlink: <x>\r\n\r\nHTTP/1.1 199 X\r\n\r\n"
        + answer(),
        "a thousand before": b"HTTP/1.1 102 Processing\r\n\r\n" * 1000 + answer(),
    },
)
PROVISIONAL += [
    Fault(
        "provisional answers",
        "101",
        stays(b"HTTP/1.1 101 X\r\nupgrade: x\r\n\r\n"),
        (md.BadResponseError, md.ConnectionFailedError),
        kept=False,
    ),
    Fault(
        "provisional answers",
        "for ever",
        drips(again=b"HTTP/1.1 102 Processing\r\n\r\n"),
        md.DeadlineExceededError,
        timeout=SOON,
        kept=False,
    ),
    Fault(
        "provisional answers",
        "a storm of them",
        floods(again=b"HTTP/1.1 102 X\r\n\r\n" * 100),
        md.BadResponseError,
        only=_own,  # clients of httpx read all of a piece of network before their time is looked at
        timeout=SOON,
        kept=False,
    ),
    Fault(
        "provisional answers",
        "and then nothing",
        hangs(b"HTTP/1.1 100 Continue\r\n\r\n"),
        md.DeadlineExceededError,
        timeout=SOON,
        kept=False,
    ),
    Fault(
        "provisional answers",
        "and then the end",
        sends(b"HTTP/1.1 100 Continue\r\n\r\n"),
        (md.BadResponseError, md.ConnectionFailedError),
        kept=False,
    ),
]


def _lengths(*values: bytes) -> bytes:
    return b"".join(b"content-length: %s\r\n" % value for value in values)


LONG = b"%d" % len(BODY)
LENGTHS = _broken(
    "lengths",
    {
        "two of them": answer(_lengths(LONG, b"%d" % (len(BODY) + 1))),
        "two of them, the first longer": answer(_lengths(b"99999", LONG)),
        "two in one line": answer(_lengths(LONG + b", 7")),
        "below zero": answer(_lengths(b"-5")),
        "with a plus": answer(_lengths(b"+" + LONG)),
        "in hexadecimal": answer(_lengths(b"0x10")),
        "in letters": answer(_lengths(b"many")),
        "empty": answer(_lengths(b"")),
        "with a fraction": answer(_lengths(LONG + b".0")),
        "with digits of another script": answer(_lengths("٩٩".encode())),
        "of 30 digits": answer(_lengths(b"9" * 30)),
        "of 5,000 digits": answer(_lengths(b"9" * 5000)),
        "one more than there is": answer(_lengths(b"%d" % (len(BODY) + 1))),
        "chunked twice": answer(CHUNKED + CHUNKED, chunked(BODY, b"")),
        "gzip, chunked": answer(
            b"transfer-encoding: gzip, chunked\r\n", chunked(gzip.compress(BODY), b"")
        ),
        "chunked, identity": answer(
            b"transfer-encoding: chunked, identity\r\n", chunked(BODY, b"")
        ),
        "xchunked": answer(b"transfer-encoding: xchunked\r\n", chunked(BODY, b"")),
    },
) + _odd(
    "lengths",
    {
        "the same twice": answer(_lengths(LONG, LONG)),
        "the same twice in one line": answer(_lengths(LONG + b", " + LONG)),
        "with zeros before": answer(_lengths(b"000" + LONG)),
        "none, until the end": sends(answer(b"")),
        "none, until the end, said so": sends(answer(b"connection: close\r\n")),
        "Chunked, in capitals": answer(b"Transfer-Encoding: CHUNKED\r\n", chunked(BODY, b"")),
    },
)
LENGTHS += [
    # RFC 9112, 6.3: chunked overrides the length, or it is an attack
    Fault(
        "lengths",
        "chunked, and a length",
        stays(answer(CHUNKED + _lengths(b"5"), chunked(BODY, b""))),
        fine_or(md.BadResponseError),
    ),
]

LENGTHS += [
    # What is left over is an answer that nobody asked for: of no effect on our own sockets only
    Fault(
        "lengths", name, stays(answer(_lengths(length))), md.BadResponseError, kept=False, only=_own
    )
    for name, length in (
        ("one less than there is", b"%d" % (len(BODY) - 1)),
        ("nothing, and yet a body", b"0"),
    )
]

CHUNKS = _broken(
    "chunks",
    {
        "no last one": answer(CHUNKED, chunked(BODY)),
        "none at all": answer(CHUNKED, b""),
        "no number": answer(CHUNKED, b"zz\r\n" + BODY),
        "an empty number": answer(CHUNKED, b"\r\n" + BODY),
        "below zero": answer(CHUNKED, b"-5\r\n" + BODY),
        "0x": answer(CHUNKED, b"0x%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)),
        "a number of 17 digits": answer(CHUNKED, b"F" * 17 + b"\r\n" + BODY),
        "a number of 21 digits": answer(CHUNKED, b"F" * 21 + b"\r\n" + BODY),
        "a number of 100,000 digits": answer(CHUNKED, b"0" * 100_000 + b"5\r\n" + BODY),
        "a number without an end": floods(answer(CHUNKED, b""), again=b"1" * 65536),
        "an extension without an end": floods(answer(CHUNKED, b"5;"), again=b"a=b;" * 16384),
        "longer than it says": answer(CHUNKED, b"5\r\n" + BODY + b"\r\n0\r\n\r\n"),
        "shorter than it says": answer(CHUNKED, b"%x\r\n%s" % (len(BODY) + 9, BODY)),
        "no line end behind it": answer(CHUNKED, b"%x\r\n%s0\r\n\r\n" % (len(BODY), BODY)),
        "trailers without an end": floods(
            answer(CHUNKED, chunked(BODY) + b"0\r\n"), again=b"x-a: b\r\n" * 8192
        ),
        "a trailer that is none": answer(CHUNKED, chunked(BODY) + b"0\r\nno colon here\r\n\r\n"),
        "cut in a number": answer(CHUNKED, b"%x" % len(BODY)),
        "cut behind a number": answer(CHUNKED, b"%x\r\n" % len(BODY)),
        "cut in the last one": answer(CHUNKED, chunked(BODY) + b"0\r\n"),
    },
) + _odd(
    "chunks",
    {
        "with an extension": answer(CHUNKED, b"%x;a=b\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)),
        "zeros before the number": answer(
            CHUNKED, b"00000%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
        ),
        "one for each byte": answer(
            CHUNKED, chunked(*(BODY[at : at + 1] for at in range(len(BODY))), b"")
        ),
        "with trailers": answer(
            CHUNKED, chunked(BODY) + b"0\r\nx-checksum: 5\r\ncontent-length: 5\r\n\r\n"
        ),
    },
)

HEADERS = _broken(
    "headers",
    {
        "one of 200 KB": answer(b"x-a: " + b"y" * 200_000 + b"\r\n" + LENGTH),
        "20,000 of them": answer(
            b"".join(b"x-%d: y\r\n" % number for number in range(20_000)) + LENGTH
        ),
        "one without an end": floods(OK + b"x-a: ", again=b"y" * 65536),
        "without an end": floods(OK, again=b"x-a: y\r\n" * 8192),
        "no colon": answer(b"no colon here\r\n" + LENGTH),
        "no name": answer(b": value\r\n" + LENGTH),
        "a blank before the colon": answer(b"x-a : y\r\n" + LENGTH),
        "a blank before the name": answer(b" x-a: y\r\n" + LENGTH).replace(OK + JSON, OK),
        "NUL in a value": answer(b"x-a: y\0z\r\n" + LENGTH),
        "NUL in a name": answer(b"x\0a: y\r\n" + LENGTH),
        "a bare CR in a value": answer(b"x-a: y\rz\r\n" + LENGTH),
        "a name that is no ASCII": answer("x-ä: y\r\n".encode() + LENGTH),
        "cut in a name": OK + b"content-le",
        "cut in a value": OK + JSON + b"content-length: 1",
        "cut before the empty line": OK + JSON + LENGTH,
    },
) + _odd(
    "headers",
    {
        "none but the length": OK + LENGTH + b"\r\n" + BODY,
        "a line that is folded": answer(b"x-a: y\r\n z\r\n" + LENGTH),
        "a value that is no ASCII": answer("x-a: ä🦊\r\n".encode() + LENGTH),
        "an empty value": answer(b"x-a:\r\n" + LENGTH),
        "cookies": answer(b"set-cookie: a=b\r\nset-cookie: c=d\r\n" + LENGTH),
        "a place to go to, with 200": answer(b"location: http://127.0.0.1:9/\r\n" + LENGTH),
        "two types": answer(b"content-type: text/html\r\n" + LENGTH),
        "Retry-After, with 200": answer(b"retry-after: 500\r\n" + LENGTH),
        "an unknown Upgrade": answer(b"upgrade: h2c\r\n" + LENGTH),
        "a long line, just short enough": answer(b"x-a: " + b"y" * 60_000 + b"\r\n" + LENGTH),
    },
)

PACKED = gzip.compress(BODY)
GZIP = b"content-encoding: gzip\r\n"


def _packed(data: bytes, coding: bytes = b"gzip") -> bytes:
    return answer(b"content-encoding: %s\r\ncontent-length: %d\r\n" % (coding, len(data)), data)


@functools.cache
def _bomb(mib: int) -> bytes:
    """Full flushes, so that every MiB is the same few bytes; its checksum is wrong, but comes much too late."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    first, again = (
        packer.compress(b" " * (1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2)
    )
    return first + again * (mib - 1) + packer.flush()


def _sends_bomb(peer: Peer) -> None:
    peer.send(_packed(_bomb(256)))


def _coding(
    name: str,
    serve: bytes | Serve,
    code: str,
    kind: type[Exception] = md.BadResponseError,
    mib: int | None = None,
) -> Fault:
    return Fault(
        "codings",
        name,
        stays(serve) if isinstance(serve, bytes) else serve,
        kind,
        code=code,
        mib=mib,
    )


CODINGS = [
    *(_coding(f"one that nobody asked for: {coding}", _packed(BODY, coding.encode()), "BAD_ENCODING") for coding in ("br", "zstd", "compress", "deflate", "chunked", "x")),
    _coding("deflate", _packed(zlib.compress(BODY), b"deflate"), "BAD_ENCODING"),
    _coding("twice, and said so", _packed(gzip.compress(PACKED), b"gzip, gzip"), "BAD_ENCODING"),
    _coding("twice, in two lines", answer(GZIP + GZIP + b"content-length: %d\r\n" % len(gzip.compress(PACKED)), gzip.compress(PACKED)), "BAD_ENCODING"),
    _coding("twice, and once said", _packed(gzip.compress(PACKED)), "NOT_JSON"),
    _coding("said, and not done", _packed(BODY), "BAD_ENCODING"),
    _coding("done, and not said", _packed(PACKED, b"identity"), "NOT_JSON"),
    _coding("a broken checksum", _packed(PACKED[:-8] + b"\0" * 8), "BAD_ENCODING"),
    _coding("a broken middle", _packed(PACKED[:40] + b"\xff" * 40 + PACKED[80:]), "BAD_ENCODING"),
    _coding("something behind it", _packed(PACKED + b"garbage"), "BAD_ENCODING"),
    _coding("two of them", _packed(gzip.compress(BODY[:50]) + gzip.compress(BODY[50:])), "BAD_ENCODING"),
    _coding("cut before its checksum", _packed(PACKED[:-8]), "REPLY_CUT", md.ConnectionFailedError),
    _coding("cut in the middle", _packed(PACKED[: len(PACKED) // 2]), "REPLY_CUT", md.ConnectionFailedError),
    _coding("only its beginning", _packed(PACKED[:5]), "REPLY_CUT", md.ConnectionFailedError),
    _coding("nothing", _packed(b""), "REPLY_CUT", md.ConnectionFailedError),
    _coding("an empty one", _packed(gzip.compress(b"")), "EMPTY"),
    _coding("a bomb of 256 MB", _sends_bomb, "TOO_LARGE", mib=64),
    _coding("garbage behind it, without an end", floods(answer(GZIP + CHUNKED, chunked(PACKED)), again=chunked(b"\0" * 65536)), "BAD_ENCODING", mib=64),
    Fault(
        "codings",
        "empty blocks for ever",
        floods(answer(GZIP + CHUNKED, chunked(PACKED[:10])), again=chunked(b"\0\0\0\xff\xff" * 4096)),
        md.DeadlineExceededError,
        timeout=SOON,
        mib=64,
    ),
    *(Fault("codings", name, stays(_packed(data, coding)), is_fine) for name, data, coding in (
        ("gzip", PACKED, b"gzip"),
        ("GZIP", PACKED, b"GZIP"),
        ("x-gzip", PACKED, b"x-gzip"),
        ("identity", BODY, b"identity"),
        ("none, in an empty header", BODY, b""),
    )),
]  # fmt: skip


BODILESS = [
    Fault(
        "bodies where none may be",
        f"{status} with {name}",
        stays(answer(first=b"HTTP/1.1 %d X\r\n" % status, body=body)),
        md.BadResponseError,
        code=code,
        kept=None if not body else False,
        # Over somebody else's pool the rest of the first answer may be the next one's
        only=_own if body else lambda runner: True,
    )
    for status, code in ((204, "EMPTY"), (304, "REDIRECT"))
    for name, body in (("a body", BODY), ("none", b""))
]


# In the same piece of network: what comes later, between two calls, is for tests/transport/test_http_transport.py, which can wait for it
UNASKED = [
    Fault(
        "answers that nobody asked for",
        name,
        stays(answer() + rest),
        is_fine,
        kept=False,
        only=_own,
    )
    for name, rest in {
        "a whole one": answer(body=OTHER, headers=b"content-length: %d\r\n" % len(OTHER)),
        "half of one": answer(body=OTHER, headers=b"content-length: %d\r\n" % len(OTHER))[:200],
        "its first line": OK,
        "one without a length": answer(b"", OTHER),
        "a provisional one": b"HTTP/1.1 100 Continue\r\n\r\n",
        "an error": whole(b'{"error": "for somebody else"}', 500),
        "a letter": b"x",
        "an empty line": b"\r\n",
        "a thousand of them": answer(body=OTHER, headers=b"content-length: %d\r\n" % len(OTHER))
        * 1000,
    }.items()
] + [
    Fault(
        "answers that nobody asked for",
        "behind chunks",
        stays(
            answer(CHUNKED, chunked(BODY, b""))
            + answer(body=OTHER, headers=b"content-length: %d\r\n" % len(OTHER))
        ),
        is_fine,
        kept=False,
        only=_own,
    ),
    Fault(
        "answers that nobody asked for",
        "behind an error",
        stays(
            whole(b'{"error": "no"}', 400)
            + answer(body=OTHER, headers=b"content-length: %d\r\n" % len(OTHER))
        ),
        md.InvalidRequestError,
        kept=False,
        only=_own,
    ),
    Fault(
        "answers that nobody asked for",
        "behind gzip",
        stays(_packed(PACKED) + answer(body=OTHER, headers=b"content-length: %d\r\n" % len(OTHER))),
        is_fine,
        kept=False,
        only=_own,
    ),
]

FAULTS = [*FIRST_LINES, *PROVISIONAL, *LENGTHS, *CHUNKS, *HEADERS, *CODINGS, *BODILESS, *UNASKED]
