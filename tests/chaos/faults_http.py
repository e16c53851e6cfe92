"""Faults of HTTP: status lines, informational responses, lengths, chunks, headers and codings.

Clients of httpx raise the same error for bytes that are not HTTP and for a connection that closes,
so over them both give the same error. How such a client handles an unsolicited response is not
tested (docs/reliability.md).
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
from tests.support.loopback import Peer, http_response

BODY = json.dumps(chat_backend("openaicompatible").dialect.complete_response).encode()
OTHER = BODY.replace(b'"Gr\\u00fc', b'"for another user')
assert OTHER != BODY
LENGTH = b"content-length: %d\r\n" % len(BODY)
JSON = b"content-type: application/json\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
# For faults that hang on purpose.
SHORT_TIMEOUT = md.Timeout(first_byte=0.3, idle=0.3, total=0.5)


def response(headers: bytes = LENGTH, body: bytes = BODY, first: bytes = OK) -> bytes:
    return first + JSON + headers + b"\r\n" + body


def _own(runner: Runner) -> bool:
    return runner.own


def _broken(family: str, faults: dict[str, Serve | bytes]) -> list[Fault]:
    """Faults without a readable response."""
    return [
        Fault(
            family,
            name,
            sends(serve) if isinstance(serve, bytes) else serve,
            (md.BadResponseError, md.ConnectionFailedError),
            retryable=True,
            reuses_connection=False,
        )
        for name, serve in faults.items()
    ]


def _accepted(family: str, faults: dict[str, bytes | Serve]) -> list[Fault]:
    """Unusual responses that must be accepted."""
    return [
        Fault(family, name, stays(serve) if isinstance(serve, bytes) else serve, is_fine)
        for name, serve in faults.items()
    ]


STATUS_LINES = _broken(
    "status lines",
    {
        "another protocol": b"SSH-2.0-OpenSSH_9\r\n",
        "no version": b"200 OK\r\n\r\n",
        "no status": b"HTTP/1.1\r\n\r\n",
        "two digits": response(first=b"HTTP/1.1 20 OK\r\n"),
        "four digits": response(first=b"HTTP/1.1 2000 OK\r\n"),
        "below zero": response(first=b"HTTP/1.1 -20 OK\r\n"),
        "letters": response(first=b"HTTP/1.1 abc OK\r\n"),
        "digits of another script": response(first="HTTP/1.1 ٢٠٠ OK\r\n".encode()),
        "a status line with HTTP/2": response(first=b"HTTP/2 200\r\n"),
        "an internet radio's ICY": response(first=b"ICY 200 OK\r\n"),
        "a byte order mark before": b"\xef\xbb\xbf" + response(),
        "NUL in the reason": response(first=b"HTTP/1.1 200 O\0K\r\n"),
        "a page without headers, as in HTTP/0.9": b"<html>hi</html>\n" * 20,
        "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "a frame of HTTP/2": b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64"  # noqa: ISC003
        + b"\0\0\x08\x07\0\0\0\0\0"
        + b"\0" * 8,
        "an alert of TLS": b"\x15\x03\x01\x00\x02\x02\x46",
        "a request": b"POST / HTTP/1.1\r\nhost: x\r\n\r\n",
        "binary": bytes(range(256)) * 8,
        "only line ends": b"\r\n" * 200_000,
        "without an end": floods(b"HTTP/1.1 200 ", repeated=b"O" * 65536),
    },
) + _accepted(
    "status lines",
    {
        "no reason": response(first=b"HTTP/1.1 200\r\n"),
        "an empty reason": response(first=b"HTTP/1.1 200 \r\n"),
        "a long reason": response(first=b"HTTP/1.1 200 " + b"O" * 4000 + b"\r\n"),
        "HTTP/9.9": response(first=b"HTTP/9.9 200 OK\r\n"),
        "HTTP/1.0": response(first=b"HTTP/1.0 200 OK\r\n"),
        "bare line feeds": response().replace(b"\r\n", b"\n"),
    },
)
STATUS_LINES += [
    Fault(
        "status lines",
        f"status {status}",
        stays(response(first=b"HTTP/1.1 %d X\r\n" % status)),
        md.BadResponseError,
        code="BAD_STATUS",
    )
    for status in (600, 999)
]

INFORMATIONAL = _accepted(
    "informational responses",
    {
        "100 before": b"HTTP/1.1 100 Continue\r\n\r\n" + response(),
        "102, 103 and 199 before": b"HTTP/1.1 102 X\r\n\r\n"
        b"HTTP/1.1 103 X\r\nlink: <x>\r\n\r\n"
        b"HTTP/1.1 199 X\r\n\r\n" + response(),
        "a thousand before": b"HTTP/1.1 102 Processing\r\n\r\n" * 1000 + response(),
    },
)
INFORMATIONAL += [
    Fault(
        "informational responses",
        "101",
        stays(b"HTTP/1.1 101 X\r\nupgrade: x\r\n\r\n"),
        (md.BadResponseError, md.ConnectionFailedError),
        reuses_connection=False,
    ),
    Fault(
        "informational responses",
        "repeated without end",
        drips(repeated=b"HTTP/1.1 102 Processing\r\n\r\n"),
        md.DeadlineExceededError,
        timeout=SHORT_TIMEOUT,
        reuses_connection=False,
    ),
    Fault(
        "informational responses",
        "a flood of them",
        floods(repeated=b"HTTP/1.1 102 X\r\n\r\n" * 100),
        md.BadResponseError,
        # Clients of httpx parse everything received before they check the time.
        only=_own,
        timeout=SHORT_TIMEOUT,
        reuses_connection=False,
    ),
    Fault(
        "informational responses",
        "followed by nothing",
        hangs(b"HTTP/1.1 100 Continue\r\n\r\n"),
        md.DeadlineExceededError,
        timeout=SHORT_TIMEOUT,
        reuses_connection=False,
    ),
    Fault(
        "informational responses",
        "followed by the end of the connection",
        sends(b"HTTP/1.1 100 Continue\r\n\r\n"),
        (md.BadResponseError, md.ConnectionFailedError),
        reuses_connection=False,
    ),
]


def _lengths(*values: bytes) -> bytes:
    return b"".join(b"content-length: %s\r\n" % value for value in values)


BODY_LENGTH = b"%d" % len(BODY)
LENGTHS = _broken(
    "lengths",
    {
        "two values": response(_lengths(BODY_LENGTH, b"%d" % (len(BODY) + 1))),
        "two values, the first longer": response(_lengths(b"99999", BODY_LENGTH)),
        "two values in one line": response(_lengths(BODY_LENGTH + b", 7")),
        "below zero": response(_lengths(b"-5")),
        "with a plus": response(_lengths(b"+" + BODY_LENGTH)),
        "in hexadecimal": response(_lengths(b"0x10")),
        "in letters": response(_lengths(b"many")),
        "empty": response(_lengths(b"")),
        "with a fraction": response(_lengths(BODY_LENGTH + b".0")),
        "with digits of another script": response(_lengths("٩٩".encode())),
        "of 30 digits": response(_lengths(b"9" * 30)),
        "of 5,000 digits": response(_lengths(b"9" * 5000)),
        "one more than the body": response(_lengths(b"%d" % (len(BODY) + 1))),
        "chunked twice": response(CHUNKED + CHUNKED, chunked(BODY, b"")),
        "gzip, chunked": response(
            b"transfer-encoding: gzip, chunked\r\n", chunked(gzip.compress(BODY), b"")
        ),
        "chunked, identity": response(
            b"transfer-encoding: chunked, identity\r\n", chunked(BODY, b"")
        ),
        "xchunked": response(b"transfer-encoding: xchunked\r\n", chunked(BODY, b"")),
    },
) + _accepted(
    "lengths",
    {
        "one value twice": response(_lengths(BODY_LENGTH, BODY_LENGTH)),
        "one value twice in one line": response(_lengths(BODY_LENGTH + b", " + BODY_LENGTH)),
        "leading zeros": response(_lengths(b"000" + BODY_LENGTH)),
        "none, the connection ends the body": sends(response(b"")),
        "none, with connection: close": sends(response(b"connection: close\r\n")),
        "Chunked, in capitals": response(b"Transfer-Encoding: CHUNKED\r\n", chunked(BODY, b"")),
    },
)
LENGTHS += [
    # RFC 9112, 6.3: chunked overrides the length; it may also be an attack and be refused.
    Fault(
        "lengths",
        "chunked, and a length",
        stays(response(CHUNKED + _lengths(b"5"), chunked(BODY, b""))),
        fine_or(md.BadResponseError),
    ),
]

LENGTHS += [
    # The rest of the body is an unsolicited response, which only our own sockets discard.
    Fault(
        "lengths",
        name,
        stays(response(_lengths(length))),
        md.BadResponseError,
        reuses_connection=False,
        only=_own,
    )
    for name, length in (
        ("one less than the body", b"%d" % (len(BODY) - 1)),
        ("zero with a body", b"0"),
    )
]

CHUNKS = _broken(
    "chunks",
    {
        "no last chunk": response(CHUNKED, chunked(BODY)),
        "no chunk at all": response(CHUNKED, b""),
        "no chunk size": response(CHUNKED, b"zz\r\n" + BODY),
        "an empty chunk size": response(CHUNKED, b"\r\n" + BODY),
        "below zero": response(CHUNKED, b"-5\r\n" + BODY),
        "0x": response(CHUNKED, b"0x%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)),
        "a chunk size of 17 digits": response(CHUNKED, b"F" * 17 + b"\r\n" + BODY),
        "a chunk size of 21 digits": response(CHUNKED, b"F" * 21 + b"\r\n" + BODY),
        "a chunk size of 100,000 digits": response(CHUNKED, b"0" * 100_000 + b"5\r\n" + BODY),
        "a chunk size without an end": floods(response(CHUNKED, b""), repeated=b"1" * 65536),
        "an extension without an end": floods(response(CHUNKED, b"5;"), repeated=b"a=b;" * 16384),
        "longer than it says": response(CHUNKED, b"5\r\n" + BODY + b"\r\n0\r\n\r\n"),
        "shorter than it says": response(CHUNKED, b"%x\r\n%s" % (len(BODY) + 9, BODY)),
        "no line end after a chunk": response(CHUNKED, b"%x\r\n%s0\r\n\r\n" % (len(BODY), BODY)),
        "trailers without an end": floods(
            response(CHUNKED, chunked(BODY) + b"0\r\n"), repeated=b"x-a: b\r\n" * 8192
        ),
        "a trailer without a colon": response(
            CHUNKED, chunked(BODY) + b"0\r\nno colon here\r\n\r\n"
        ),
        "cut in a chunk size": response(CHUNKED, b"%x" % len(BODY)),
        "cut after a chunk size": response(CHUNKED, b"%x\r\n" % len(BODY)),
        "cut in the last chunk": response(CHUNKED, chunked(BODY) + b"0\r\n"),
    },
) + _accepted(
    "chunks",
    {
        "with an extension": response(CHUNKED, b"%x;a=b\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)),
        "leading zeros in the chunk size": response(
            CHUNKED, b"00000%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
        ),
        "a chunk for each byte": response(
            CHUNKED, chunked(*(BODY[at : at + 1] for at in range(len(BODY))), b"")
        ),
        "with trailers": response(
            CHUNKED, chunked(BODY) + b"0\r\nx-checksum: 5\r\ncontent-length: 5\r\n\r\n"
        ),
    },
)

HEADERS = _broken(
    "headers",
    {
        "one of 200 KB": response(b"x-a: " + b"y" * 200_000 + b"\r\n" + LENGTH),
        "20,000 of them": response(
            b"".join(b"x-%d: y\r\n" % number for number in range(20_000)) + LENGTH
        ),
        "one without an end": floods(OK + b"x-a: ", repeated=b"y" * 65536),
        "without an end": floods(OK, repeated=b"x-a: y\r\n" * 8192),
        "no colon": response(b"no colon here\r\n" + LENGTH),
        "no name": response(b": value\r\n" + LENGTH),
        "a space before the colon": response(b"x-a : y\r\n" + LENGTH),
        "a space before the name": response(b" x-a: y\r\n" + LENGTH).replace(OK + JSON, OK),
        "NUL in a value": response(b"x-a: y\0z\r\n" + LENGTH),
        "NUL in a name": response(b"x\0a: y\r\n" + LENGTH),
        "a bare CR in a value": response(b"x-a: y\rz\r\n" + LENGTH),
        "a non-ASCII name": response("x-ä: y\r\n".encode() + LENGTH),
        "cut in a name": OK + b"content-le",
        "cut in a value": OK + JSON + b"content-length: 1",
        "cut before the empty line": OK + JSON + LENGTH,
    },
) + _accepted(
    "headers",
    {
        "only the length": OK + LENGTH + b"\r\n" + BODY,
        "a folded line": response(b"x-a: y\r\n z\r\n" + LENGTH),
        "a non-ASCII value": response("x-a: ä🦊\r\n".encode() + LENGTH),
        "an empty value": response(b"x-a:\r\n" + LENGTH),
        "cookies": response(b"set-cookie: a=b\r\nset-cookie: c=d\r\n" + LENGTH),
        "Location, with 200": response(b"location: http://127.0.0.1:9/\r\n" + LENGTH),
        "two types": response(b"content-type: text/html\r\n" + LENGTH),
        "Retry-After, with 200": response(b"retry-after: 500\r\n" + LENGTH),
        "an unknown Upgrade": response(b"upgrade: h2c\r\n" + LENGTH),
        "a long line, just short enough": response(b"x-a: " + b"y" * 60_000 + b"\r\n" + LENGTH),
    },
)

GZIPPED = gzip.compress(BODY)
GZIP = b"content-encoding: gzip\r\n"


def _encoded(data: bytes, coding: bytes = b"gzip") -> bytes:
    return response(b"content-encoding: %s\r\ncontent-length: %d\r\n" % (coding, len(data)), data)


@functools.cache
def _bomb(mib: int) -> bytes:
    """Return gzip data that inflates to so many MiB.

    Full flushes make every MiB the same few bytes. The checksum is wrong, but it comes last.
    """
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
    first, repeated = (
        compressor.compress(b" " * (1 << 20)) + compressor.flush(zlib.Z_FULL_FLUSH)
        for _ in range(2)
    )
    return first + repeated * (mib - 1) + compressor.flush()


def _send_bomb(peer: Peer) -> None:
    peer.send(_encoded(_bomb(256)))


def _coding(
    name: str,
    serve: bytes | Serve,
    code: str,
    kind: type[Exception] = md.BadResponseError,
    mib: int | None = None,
) -> Fault:
    return Fault(
        "content codings",
        name,
        stays(serve) if isinstance(serve, bytes) else serve,
        kind,
        code=code,
        mib=mib,
    )


CODINGS = [
    *(
        _coding(f"an unrequested coding: {coding}", _encoded(BODY, coding.encode()), "BAD_ENCODING")
        for coding in ("br", "zstd", "compress", "deflate", "chunked", "x")
    ),
    _coding("deflate", _encoded(zlib.compress(BODY), b"deflate"), "BAD_ENCODING"),
    _coding(
        "encoded twice, declared twice",
        _encoded(gzip.compress(GZIPPED), b"gzip, gzip"),
        "BAD_ENCODING",
    ),
    _coding(
        "encoded twice, declared in two lines",
        response(
            GZIP + GZIP + b"content-length: %d\r\n" % len(gzip.compress(GZIPPED)),
            gzip.compress(GZIPPED),
        ),
        "BAD_ENCODING",
    ),
    _coding("encoded twice, declared once", _encoded(gzip.compress(GZIPPED)), "NOT_JSON"),
    _coding("declared but not encoded", _encoded(BODY), "BAD_ENCODING"),
    _coding("encoded but not declared", _encoded(GZIPPED, b"identity"), "NOT_JSON"),
    _coding("a broken checksum", _encoded(GZIPPED[:-8] + b"\0" * 8), "BAD_ENCODING"),
    _coding(
        "a broken middle", _encoded(GZIPPED[:40] + b"\xff" * 40 + GZIPPED[80:]), "BAD_ENCODING"
    ),
    _coding("data after the gzip member", _encoded(GZIPPED + b"garbage"), "BAD_ENCODING"),
    _coding(
        "two gzip members",
        _encoded(gzip.compress(BODY[:50]) + gzip.compress(BODY[50:])),
        "BAD_ENCODING",
    ),
    _coding(
        "cut before its checksum", _encoded(GZIPPED[:-8]), "REPLY_CUT", md.ConnectionFailedError
    ),
    _coding(
        "cut in the middle",
        _encoded(GZIPPED[: len(GZIPPED) // 2]),
        "REPLY_CUT",
        md.ConnectionFailedError,
    ),
    _coding("only its first bytes", _encoded(GZIPPED[:5]), "REPLY_CUT", md.ConnectionFailedError),
    _coding("an empty body", _encoded(b""), "REPLY_CUT", md.ConnectionFailedError),
    _coding("an encoded empty body", _encoded(gzip.compress(b"")), "EMPTY"),
    _coding("a bomb of 256 MB", _send_bomb, "TOO_LARGE", mib=64),
    _coding(
        "data without an end after the gzip member",
        floods(response(GZIP + CHUNKED, chunked(GZIPPED)), repeated=chunked(b"\0" * 65536)),
        "BAD_ENCODING",
        mib=64,
    ),
    Fault(
        "content codings",
        "empty blocks without an end",
        floods(
            response(GZIP + CHUNKED, chunked(GZIPPED[:10])),
            repeated=chunked(b"\0\0\0\xff\xff" * 4096),
        ),
        md.DeadlineExceededError,
        timeout=SHORT_TIMEOUT,
        mib=64,
    ),
    *(
        Fault("content codings", name, stays(_encoded(data, coding)), is_fine)
        for name, data, coding in (
            ("gzip", GZIPPED, b"gzip"),
            ("GZIP", GZIPPED, b"GZIP"),
            ("x-gzip", GZIPPED, b"x-gzip"),
            ("identity", BODY, b"identity"),
            ("none, in an empty header", BODY, b""),
        )
    ),
]


BODILESS = [
    Fault(
        "bodies where none is allowed",
        f"{status} with {name}",
        stays(response(first=b"HTTP/1.1 %d X\r\n" % status, body=body)),
        md.BadResponseError,
        code=code,
        reuses_connection=None if not body else False,
        # In the pool of an httpx client the rest of this response may become the next response.
        only=_own if body else lambda runner: True,
    )
    for status, code in ((204, "EMPTY"), (304, "REDIRECT"))
    for name, body in (("a body", BODY), ("none", b""))
]


# Received together with the response. Bytes that arrive later, between two calls, are tested in
# tests/transport/test_http_transport.py.
UNSOLICITED = [
    Fault(
        "unsolicited responses",
        name,
        stays(response() + rest),
        is_fine,
        reuses_connection=False,
        only=_own,
    )
    for name, rest in {
        "a complete one": response(body=OTHER, headers=b"content-length: %d\r\n" % len(OTHER)),
        "half of one": response(body=OTHER, headers=b"content-length: %d\r\n" % len(OTHER))[:200],
        "a status line": OK,
        "one without a length": response(b"", OTHER),
        "an informational one": b"HTTP/1.1 100 Continue\r\n\r\n",
        "an error": http_response(b'{"error": "for another user"}', 500),
        "a letter": b"x",
        "an empty line": b"\r\n",
        "a thousand of them": response(body=OTHER, headers=b"content-length: %d\r\n" % len(OTHER))
        * 1000,
    }.items()
] + [
    Fault(
        "unsolicited responses",
        "after chunks",
        stays(
            response(CHUNKED, chunked(BODY, b""))
            + response(body=OTHER, headers=b"content-length: %d\r\n" % len(OTHER))
        ),
        is_fine,
        reuses_connection=False,
        only=_own,
    ),
    Fault(
        "unsolicited responses",
        "after an error",
        stays(
            http_response(b'{"error": "no"}', 400)
            + response(body=OTHER, headers=b"content-length: %d\r\n" % len(OTHER))
        ),
        md.InvalidRequestError,
        reuses_connection=False,
        only=_own,
    ),
    Fault(
        "unsolicited responses",
        "after gzip",
        stays(
            _encoded(GZIPPED) + response(body=OTHER, headers=b"content-length: %d\r\n" % len(OTHER))
        ),
        is_fine,
        reuses_connection=False,
        only=_own,
    ),
]

FAULTS = [
    *STATUS_LINES,
    *INFORMATIONAL,
    *LENGTHS,
    *CHUNKS,
    *HEADERS,
    *CODINGS,
    *BODILESS,
    *UNSOLICITED,
]
