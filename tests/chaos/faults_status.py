"""Errors in each backend's own words: status and body give the class, the code, whether to try again, the reason; a quoted key stays hidden."""

from __future__ import annotations

import functools
import json
import re
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import majordomo as md
from tests.chaos.fault import Call, Fault, Heard, stream_call, whole_call
from tests.chaos.server_behaviors import is_fine, stays
from tests.support.chat_backends import KEY
from tests.support.image_backends import BACKENDS
from tests.support.loopback import Peer, Seen, whole

WORDS = f"some words, {KEY}"
Case = tuple[int, Any, type[md.MajordomoError], str | None]  # status, body, class, code
INVALID, AUTH, DENIED, MISSING = (
    md.InvalidRequestError,
    md.AuthenticationError,
    md.PermissionDeniedError,
    md.NotFoundError,
)
RATE, BUSY, REFUSED, BROKEN, CANNOT = (
    md.RateLimitError,
    md.OverloadedError,
    md.ContentRefusedError,
    md.BackendError,
    md.UnsupportedError,
)


# Images: a healthy server of each backend


class _OneRequest:
    """A connection on which this one request comes: for servers that read their requests themselves."""

    def __init__(self, peer: Peer, seen: Seen) -> None:
        self._peer = peer
        self._seen: Seen | None = seen

    def request(self) -> Seen | None:
        seen, self._seen = self._seen, None
        return seen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._peer, name)


_JOB = re.compile(
    r"/(images/generations|img_gen|txt2img|prompt|api/generate|[^/]+:generateContent)$"
)


@functools.cache
def image_call(name: str) -> Call:
    """An image of the backend of this name in `image_backends`."""
    backend = next(backend for backend in BACKENDS if backend.name == name)
    healthy: weakref.WeakKeyDictionary[Any, Callable[[Any], None]] = weakref.WeakKeyDictionary()

    def fine(peer: Peer, seen: Seen) -> None:
        server = healthy.setdefault(peer.server, backend.server())
        server(_OneRequest(peer, seen))

    async def ask(provider: Any, heard: Heard) -> Any:
        return await provider.image_model(backend.model).generate("a red fox", **backend.fields)

    def blocking(provider: Any, heard: Heard) -> Any:
        return provider.image_model(backend.model).generate_sync("a red fox", **backend.fields)

    def check(result: Any) -> None:
        assert len(result.images) == 1
        result.images[0].to_pil().load()

    def counted(seen: Seen) -> bool:
        return seen.method == "POST" and _JOB.search(seen.path.partition("?")[0]) is not None

    return Call(f"{name} image", backend.connect, ask, fine, check, blocking, counted)


# What each backend says


def _openai(
    code: str | None = None, kind: str = "invalid_request_error", **more: Any
) -> dict[str, Any]:
    return {"error": {"message": WORDS, "type": kind, "param": None, "code": code, **more}}


OPENAI: list[Case] = [
    (400, _openai("invalid_value"), INVALID, None),
    (400, _openai("context_length_exceeded"), INVALID, "CONTEXT_TOO_LONG"),
    (400, _openai("content_policy_violation"), REFUSED, None),
    (401, _openai("invalid_api_key"), AUTH, None),
    (403, _openai("unsupported_country_region_territory"), DENIED, None),
    (404, _openai("model_not_found"), MISSING, "MODEL_NOT_FOUND"),
    (408, _openai(), BUSY, "REQUEST_TIMEOUT"),
    (409, _openai(), BUSY, "CONFLICT"),
    (413, _openai(), INVALID, "TOO_LARGE"),
    (422, _openai(), INVALID, None),
    (429, _openai("rate_limit_exceeded", "requests"), RATE, "RATE_LIMITED"),
    (429, _openai("insufficient_quota", "insufficient_quota"), RATE, "QUOTA_EXHAUSTED"),
    (500, _openai(None, "server_error"), BROKEN, None),
    (501, _openai(None, "server_error"), CANNOT, None),
    (502, _openai(None, "server_error"), BROKEN, None),
    (503, _openai(None, "server_error"), BUSY, None),
    (504, _openai(None, "server_error"), BROKEN, None),
]


def _anthropic(kind: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "error",
        "error": {"type": kind, "message": WORDS, **more},
        "request_id": "req_1",
    }


ANTHROPIC: list[Case] = [
    (400, _anthropic("invalid_request_error"), INVALID, None),
    (401, _anthropic("authentication_error"), AUTH, None),
    (402, _anthropic("billing_error"), DENIED, "PAYMENT_REQUIRED"),
    (403, _anthropic("permission_error"), DENIED, None),
    (404, _anthropic("not_found_error"), MISSING, None),
    (409, _anthropic("conflict_error"), BUSY, "CONFLICT"),
    (413, _anthropic("request_too_large"), INVALID, "TOO_LARGE"),
    (429, _anthropic("rate_limit_error"), RATE, "RATE_LIMITED"),
    (
        429,
        _anthropic("rate_limit_error", details={"error_code": "enforced_spend_limit_reached"}),
        RATE,
        "QUOTA_EXHAUSTED",
    ),
    (500, _anthropic("api_error"), BROKEN, None),
    (504, _anthropic("timeout_error"), BROKEN, None),
    (529, _anthropic("overloaded_error"), BUSY, None),
]


def _google(code: int, status: str, *details: dict[str, Any]) -> dict[str, Any]:
    return {"error": {"code": code, "message": WORDS, "status": status, "details": list(details)}}


_BAD_KEY = {
    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
    "reason": "API_KEY_INVALID",
    "domain": "googleapis.com",
}
GEMINI: list[Case] = [
    (400, _google(400, "INVALID_ARGUMENT"), INVALID, None),
    (400, _google(400, "INVALID_ARGUMENT", _BAD_KEY), AUTH, None),
    (400, _google(400, "FAILED_PRECONDITION"), INVALID, None),
    (401, _google(401, "UNAUTHENTICATED"), AUTH, None),
    (403, _google(403, "PERMISSION_DENIED"), DENIED, None),
    (404, _google(404, "NOT_FOUND"), MISSING, None),
    (429, _google(429, "RESOURCE_EXHAUSTED"), RATE, "RATE_LIMITED"),
    (500, _google(500, "INTERNAL"), BROKEN, None),
    (503, _google(503, "UNAVAILABLE"), BUSY, None),
    (504, _google(504, "DEADLINE_EXCEEDED"), BROKEN, None),
    (
        503,
        [_google(503, "UNAVAILABLE")],
        BUSY,
        None,
    ),  # in a list, as streams without alt=sse have it
]
OLLAMA: list[Case] = [
    *((status, {"error": WORDS}, kind, None) for status, kind in (
        (400, INVALID), (403, DENIED), (404, MISSING), (429, RATE), (499, INVALID), (500, BROKEN), (502, BROKEN), (503, BUSY),
    )),
    (401, {"error": WORDS, "signin_url": "https://ollama.test/connect?key=x"}, AUTH, None),
    (405, f"405 method not allowed: {WORDS}", CANNOT, None),
]  # fmt: skip
SWAP: list[Case] = [
    (400, {"src": "llama-swap", "error": WORDS}, INVALID, None),
    (401, {"src": "llama-swap", "error": WORDS}, AUTH, None),
    (404, {"src": "llama-swap", "error": WORDS}, MISSING, None),
    (
        409,
        {"src": "llama-swap", "error": {"message": WORDS, "code": "conflict"}},
        INVALID,
        "CONFLICT",
    ),
    (429, {"src": "llama-swap", "error": WORDS}, RATE, "RATE_LIMITED"),
    (
        500,
        {
            "src": "llama-swap",
            "error": {"message": WORDS, "type": "server_error", "code": "internal_error"},
        },
        BROKEN,
        None,
    ),
    (502, b"", BROKEN, "UPSTREAM_DIED"),
    (503, f"llama-swap-error: [m] {WORDS}", BUSY, None),
]


def _engine(code: int, kind: str, **more: Any) -> dict[str, Any]:
    return {"error": {"code": code, "message": WORDS, "type": kind, **more}}


LLAMA_CPP: list[Case] = [
    (400, _engine(400, "invalid_request_error"), INVALID, None),
    (
        400,
        _engine(400, "exceed_context_size_error", n_prompt_tokens=9, n_ctx=8),
        INVALID,
        "CONTEXT_TOO_LONG",
    ),
    (401, _engine(401, "authentication_error"), AUTH, None),
    (403, _engine(403, "permission_error"), DENIED, None),
    (404, _engine(404, "not_found_error"), MISSING, None),
    (500, _engine(500, "server_error"), BROKEN, None),
    (501, _engine(501, "not_supported_error"), CANNOT, None),
]
SD_SERVER: list[Case] = [
    (400, {"error": WORDS}, INVALID, None),
    (400, {"error": "invalid json", "message": WORDS}, INVALID, None),
    (404, b"", MISSING, None),
    (429, {"error": f"job queue is full: {WORDS}"}, RATE, None),
    (500, {"error": "server_error", "message": WORDS}, BROKEN, None),
    (500, {"error": WORDS}, BROKEN, None),
]


def _webui(name: str, detail: str = "", errors: str = "") -> dict[str, Any]:
    return {"error": name, "detail": detail, "body": "", "errors": errors}


WEBUI: list[Case] = [
    (400, _webui("HTTPException", WORDS), INVALID, None),
    (401, {"detail": WORDS}, AUTH, None),
    (404, _webui("HTTPException", WORDS), MISSING, None),
    (404, {"detail": "Not Found"}, MISSING, None),
    (
        422,
        {"detail": [{"loc": ["body", "steps"], "msg": WORDS, "type": "type_error.integer"}]},
        INVALID,
        None,
    ),
    (422, _webui("HTTPException", WORDS), INVALID, None),
    (500, _webui("OutOfMemoryError", "", WORDS), BROKEN, "GPU_OOM"),
    (500, _webui("NansException", "", WORDS), BROKEN, None),
    (500, _webui("RuntimeError", "", WORDS), BROKEN, None),
]


def _graph(kind: str, **fault: Any) -> dict[str, Any]:
    nodes = (
        {"3": {"errors": [fault], "dependent_outputs": ["9"], "class_type": "KSampler"}}
        if fault
        else {}
    )
    return {
        "error": {"type": kind, "message": WORDS, "details": "", "extra_info": {}},
        "node_errors": nodes,
    }


_NO_FILE = {
    "type": "value_not_in_list",
    "message": "x",
    "details": WORDS,
    "extra_info": {"input_name": "ckpt_name"},
}
COMFYUI: list[Case] = [
    (400, _graph("prompt_no_outputs"), INVALID, None),
    (
        400,
        _graph(
            "prompt_outputs_failed_validation",
            type="required_input_missing",
            message="x",
            details=WORDS,
        ),
        INVALID,
        None,
    ),
    (400, _graph("prompt_outputs_failed_validation", **_NO_FILE), MISSING, "MODEL_NOT_FOUND"),
    (403, b"", DENIED, None),
    (413, f"413: {WORDS}", INVALID, "TOO_LARGE"),
    (500, f"500 Internal Server Error\n\nServer got itself in trouble: {WORDS}", BROKEN, None),
]
TABLES: dict[str, tuple[list[Case], list[Call]]] = {
    "openai": (OPENAI, [whole_call("openai chat"), stream_call("openai"), image_call("openai")]),
    "anthropic": (ANTHROPIC, [whole_call("anthropic"), stream_call("anthropic")]),
    "gemini": (GEMINI, [whole_call("gemini"), stream_call("gemini"), image_call("gemini")]),
    "ollama": (OLLAMA, [whole_call("ollama"), stream_call("ollama"), image_call("ollama")]),
    "llama-swap": (
        SWAP,
        [whole_call("llamaswap"), stream_call("llamaswap"), image_call("llamaswap")],
    ),
    "llama.cpp": (LLAMA_CPP, [whole_call("openaicompatible"), stream_call("openaicompatible")]),
    "sd-server": (
        SD_SERVER,
        [
            image_call("stablediffusion"),
            image_call("stablediffusion sdapi"),
            image_call("stablediffusion openai"),
        ],
    ),
    "A1111": (WEBUI, [image_call("automatic1111")]),
    "ComfyUI": (COMFYUI, [image_call("comfyui")]),
}
LASTING = (INVALID, AUTH, DENIED, MISSING, REFUSED, CANNOT)


def _faults() -> list[Fault]:
    made = []
    for shape, (cases, calls) in TABLES.items():
        for number, (status, body, kind, code) in enumerate(cases):
            call = calls[number % len(calls)]
            gone = (status, call.name) == (
                404,
                "ollama image",
            )  # the model is there, as it has just said: it is the route that has gone
            kind = CANNOT if gone else kind
            data = (
                body
                if isinstance(body, bytes)
                else body.encode()
                if isinstance(body, str)
                else json.dumps(body).encode()
            )
            made.append(
                Fault(
                    f"errors of {shape}",
                    f"{number}: {status} {code or kind.__name__} to {call.name}",
                    stays(
                        whole(
                            data,
                            status,
                            {
                                "content-type": "text/plain"
                                if isinstance(body, str)
                                else "application/json"
                            },
                        )
                    ),
                    kind,
                    call,
                    status=status,
                    code=code,
                    retryable=kind not in LASTING and code != "QUOTA_EXHAUSTED",
                    words="some words" if KEY.encode() in data and not gone else None,
                    hidden=KEY if "image" not in call.name else None,
                    kept=True if call.name.startswith(("openai", "anthropic")) else None,
                    requests=1,
                )
            )
    return made


# Bodies of errors that are none: the status alone decides
STATUSES: dict[int, type[md.MajordomoError]] = {
    400: INVALID,
    401: AUTH,
    402: DENIED,
    403: DENIED,
    404: MISSING,
    405: CANNOT,
    408: BUSY,
    409: BUSY,
    410: md.JobLostError,
    413: INVALID,
    418: INVALID,
    422: INVALID,
    425: BUSY,
    429: RATE,
    451: REFUSED,
    500: BROKEN,
    501: CANNOT,
    502: BROKEN,
    503: BUSY,
    507: BROKEN,
    529: BUSY,
}
STRANGE: dict[str, bytes] = {
    "words": b"some words",
    "a web page": b"<html><title>some words</title><body>" + b"x" * 5000,
    "a web page without an end": b"<html><title>some words",
    "nothing": b"",
    "blanks": b" \r\n",
    "cut": b'{"error": "cut o',
    "deep": b'{"error":' * 3000,
    "deep lists": b"[" * 60_000,
    "no numbers": b'{"error": NaN, "message": 1e999, "detail": "\\ud800"}',
    "no text": b"\xff\xfe\0\x1b[31m" * 2000,
    "control characters": b'{"error": "some words\\u0000\\u001b[2J\\r\\n\\u202e"}',
    "digits": b"1" * 70_000,
    "null": b"null",
    "a number": b"5",
    "an empty list": b"[]",
    "an empty object": b"{}",
    "errors of other types": b'{"error": {"message": {"a": [1]}, "code": [], "type": 7, "details": "x", "metadata": 5}, "detail": {"detail": 5}}',
    "an error in an error": b'{"error": {"error": {"error": {"message": "some words"}}}}',
    "node errors of another type": b'{"error": {"message": "some words"}, "node_errors": [1, {"3": null}]}',
    "details of another type": b'{"error": {"message": "some words", "details": [1, null, {"@type": 5, "retryDelay": {}, "reason": []}]}}',
    "a giant word": b'{"error": {"message": "some words", "code": "' + b"x" * 60_000 + b'"}}',
    "16 MiB": b'{"error": "some words", "more": "' + b"x" * (16 << 20),
    "a byte order mark": b'\xef\xbb\xbf{"error": "some words"}',
    "UTF-16": '{"error": "some words"}'.encode("utf-16"),
    "gzip that is none": b"",
}


def _strange() -> list[Fault]:
    statuses = list(STATUSES.items())
    calls = [
        make(name)
        for name in ("openaicompatible", "anthropic", "gemini", "ollama", "openai")
        for make in (whole_call, stream_call)
    ]
    made = []
    for number, (told, body) in enumerate(STRANGE.items()):
        for turn in (0, 7, 14):
            status, kind = statuses[(number + turn) % len(statuses)]
            call = calls[(number + turn) % len(calls)]
            coding = {"content-encoding": "gzip"} if told.startswith("gzip") else {}
            data = b"no gzip" if coding else body
            made.append(
                Fault(
                    "error bodies that are none",
                    f"{told} with {status} to {call.name}",
                    stays(whole(data, status, coding)),
                    kind if not coding else (kind, md.BadResponseError),
                    call,
                    status=status,
                    requests=1,
                )
            )
    return made


def _loading() -> list[Fault]:
    """llama.cpp says so while it loads: asked again, though this provider has one try."""
    body = whole(_engine(503, "unavailable_error"), 503, {"retry-after-ms": "50"})
    return [
        Fault(
            "errors of llama.cpp", f"it loads, {call.name}", stays(body), is_fine, call, requests=2
        )
        for call in (whole_call("openaicompatible"), stream_call("openaicompatible"))
    ]


FAULTS = [replace(fault, turns=True) for fault in _faults() + _strange() + _loading()]
