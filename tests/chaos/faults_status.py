"""Error responses in the format of each backend.

Status and body decide the class, the code, whether the error is retryable, and the reason. A key
that a server quotes stays hidden.
"""

from __future__ import annotations

import functools
import json
import re
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import majordomo as md
from tests.chaos.fault import Call, Fault, Received, reply_call, stream_call
from tests.chaos.server_behaviors import is_fine, stays
from tests.support.chat_backends import KEY
from tests.support.image_backends import BACKENDS
from tests.support.loopback import Peer, ReceivedRequest, http_response

MESSAGE = f"some words, {KEY}"
# Status, body, class and code of the error.
Case = tuple[int, Any, type[md.MajordomoError], str | None]
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
    """A connection with one request, for servers that read their requests themselves."""

    def __init__(self, peer: Peer, http_request: ReceivedRequest) -> None:
        self._peer = peer
        self._request: ReceivedRequest | None = http_request

    def request(self) -> ReceivedRequest | None:
        http_request, self._request = self._request, None
        return http_request

    def __getattr__(self, name: str) -> Any:
        return getattr(self._peer, name)


_JOB = re.compile(
    r"/(images/generations|img_gen|txt2img|prompt|api/generate|flux/dev|[^/]+:generateContent)$"
)


@functools.cache
def image_call(name: str) -> Call:
    """Return an image call to a backend of `image_backends`."""
    backend = next(backend for backend in BACKENDS if backend.name == name)
    healthy: weakref.WeakKeyDictionary[Any, Callable[[Any], None]] = weakref.WeakKeyDictionary()

    def respond(peer: Peer, http_request: ReceivedRequest) -> None:
        server = healthy.setdefault(peer.server, backend.server())
        server(_OneRequest(peer, http_request))

    async def start(provider: Any, received: Received) -> Any:
        return await provider.image_model(backend.model).generate("a red fox", **backend.fields)

    def blocking(provider: Any, received: Received) -> Any:
        return provider.image_model(backend.model).generate_sync("a red fox", **backend.fields)

    def check(result: Any) -> None:
        assert len(result.images) == 1
        result.images[0].to_pil().load()

    def counted(request: ReceivedRequest) -> bool:
        return request.method == "POST" and _JOB.search(request.path.partition("?")[0]) is not None

    return Call(f"{name} image", backend.connect, start, respond, check, blocking, counted)


# Error formats of the backends


def _openai(
    code: str | None = None, kind: str = "invalid_request_error", **more: Any
) -> dict[str, Any]:
    return {"error": {"message": MESSAGE, "type": kind, "param": None, "code": code, **more}}


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
        "error": {"type": kind, "message": MESSAGE, **more},
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
    return {"error": {"code": code, "message": MESSAGE, "status": status, "details": list(details)}}


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
    *(
        (status, {"error": MESSAGE}, kind, None)
        for status, kind in (
            (400, INVALID),
            (403, DENIED),
            (404, MISSING),
            (429, RATE),
            (499, INVALID),
            (500, BROKEN),
            (502, BROKEN),
            (503, BUSY),
        )
    ),
    (401, {"error": MESSAGE, "signin_url": "https://ollama.test/connect?key=x"}, AUTH, None),
    (405, f"405 method not allowed: {MESSAGE}", CANNOT, None),
]
SWAP: list[Case] = [
    (400, {"src": "llama-swap", "error": MESSAGE}, INVALID, None),
    (401, {"src": "llama-swap", "error": MESSAGE}, AUTH, None),
    (404, {"src": "llama-swap", "error": MESSAGE}, MISSING, None),
    (
        409,
        {"src": "llama-swap", "error": {"message": MESSAGE, "code": "conflict"}},
        INVALID,
        "CONFLICT",
    ),
    (429, {"src": "llama-swap", "error": MESSAGE}, RATE, "RATE_LIMITED"),
    (
        500,
        {
            "src": "llama-swap",
            "error": {"message": MESSAGE, "type": "server_error", "code": "internal_error"},
        },
        BROKEN,
        None,
    ),
    (502, b"", BROKEN, "UPSTREAM_DIED"),
    (503, f"llama-swap-error: [m] {MESSAGE}", BUSY, None),
]


def _engine(code: int, kind: str, **more: Any) -> dict[str, Any]:
    return {"error": {"code": code, "message": MESSAGE, "type": kind, **more}}


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
    (400, {"error": MESSAGE}, INVALID, None),
    (400, {"error": "invalid json", "message": MESSAGE}, INVALID, None),
    (404, b"", MISSING, None),
    (429, {"error": f"job queue is full: {MESSAGE}"}, RATE, None),
    (500, {"error": "server_error", "message": MESSAGE}, BROKEN, None),
    (500, {"error": MESSAGE}, BROKEN, None),
]


def _webui(name: str, detail: str = "", errors: str = "") -> dict[str, Any]:
    return {"error": name, "detail": detail, "body": "", "errors": errors}


WEBUI: list[Case] = [
    (400, _webui("HTTPException", MESSAGE), INVALID, None),
    (401, {"detail": MESSAGE}, AUTH, None),
    (404, _webui("HTTPException", MESSAGE), MISSING, None),
    (404, {"detail": "Not Found"}, MISSING, None),
    (
        422,
        {"detail": [{"loc": ["body", "steps"], "msg": MESSAGE, "type": "type_error.integer"}]},
        INVALID,
        None,
    ),
    (422, _webui("HTTPException", MESSAGE), INVALID, None),
    (500, _webui("OutOfMemoryError", "", MESSAGE), BROKEN, "GPU_OOM"),
    (500, _webui("NansException", "", MESSAGE), BROKEN, None),
    (500, _webui("RuntimeError", "", MESSAGE), BROKEN, None),
]


def _graph(kind: str, **fault: Any) -> dict[str, Any]:
    nodes = (
        {"3": {"errors": [fault], "dependent_outputs": ["9"], "class_type": "KSampler"}}
        if fault
        else {}
    )
    return {
        "error": {"type": kind, "message": MESSAGE, "details": "", "extra_info": {}},
        "node_errors": nodes,
    }


_NO_FILE = {
    "type": "value_not_in_list",
    "message": "x",
    "details": MESSAGE,
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
            details=MESSAGE,
        ),
        INVALID,
        None,
    ),
    (400, _graph("prompt_outputs_failed_validation", **_NO_FILE), MISSING, "MODEL_NOT_FOUND"),
    (403, b"", DENIED, None),
    (413, f"413: {MESSAGE}", INVALID, "TOO_LARGE"),
    (500, f"500 Internal Server Error\n\nServer got itself in trouble: {MESSAGE}", BROKEN, None),
]


def _fal(kind: str) -> dict[str, Any]:
    return {"detail": [{"loc": ["body", "prompt"], "msg": MESSAGE, "type": kind, "url": "x"}]}


FAL: list[Case] = [
    (401, {"detail": MESSAGE}, AUTH, None),
    (403, {"detail": MESSAGE}, DENIED, None),
    (404, {"detail": MESSAGE}, MISSING, None),
    (422, _fal("missing"), INVALID, None),
    (422, _fal("content_policy_violation"), REFUSED, None),
    (429, {"detail": MESSAGE}, RATE, "RATE_LIMITED"),
    (500, _fal("internal_server_error"), BROKEN, None),
    (503, {"detail": MESSAGE, "error_type": "runner_scheduling_failure"}, BUSY, None),
    (504, {"detail": MESSAGE, "error_type": "startup_timeout"}, BROKEN, None),
]
TABLES: dict[str, tuple[list[Case], list[Call]]] = {
    "openai": (OPENAI, [reply_call("openai chat"), stream_call("openai"), image_call("openai")]),
    "anthropic": (ANTHROPIC, [reply_call("anthropic"), stream_call("anthropic")]),
    "gemini": (GEMINI, [reply_call("gemini"), stream_call("gemini"), image_call("gemini")]),
    "ollama": (OLLAMA, [reply_call("ollama"), stream_call("ollama"), image_call("ollama")]),
    "llama-swap": (
        SWAP,
        [reply_call("llamaswap"), stream_call("llamaswap"), image_call("llamaswap")],
    ),
    "llama.cpp": (LLAMA_CPP, [reply_call("openaicompatible"), stream_call("openaicompatible")]),
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
    "fal": (FAL, [image_call("fal")]),
}
NOT_RETRYABLE = (INVALID, AUTH, DENIED, MISSING, REFUSED, CANNOT)


def _error_faults() -> list[Fault]:
    faults = []
    for shape, (cases, calls) in TABLES.items():
        for number, (status, body, kind, code) in enumerate(cases):
            call = calls[number % len(calls)]
            # The server has just listed the model, so 404 means that the route is missing.
            no_route = (status, call.name) == (404, "ollama image")
            kind = CANNOT if no_route else kind
            data = (
                body
                if isinstance(body, bytes)
                else body.encode()
                if isinstance(body, str)
                else json.dumps(body).encode()
            )
            faults.append(
                Fault(
                    f"errors of {shape}",
                    f"{number}: {status} {code or kind.__name__} to {call.name}",
                    stays(
                        http_response(
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
                    retryable=kind not in NOT_RETRYABLE and code != "QUOTA_EXHAUSTED",
                    message="some words" if KEY.encode() in data and not no_route else None,
                    hidden=KEY if "image" not in call.name else None,
                    reuses_connection=True
                    if call.name.startswith(("openai", "anthropic"))
                    else None,
                    requests=1,
                )
            )
    return faults


# Bodies without a readable error: the status alone decides.
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
UNREADABLE_BODIES: dict[str, bytes] = {
    "plain text": b"some words",
    "an HTML page": b"<html><title>some words</title><body>" + b"x" * 5000,
    "an HTML page without an end": b"<html><title>some words",
    "an empty body": b"",
    "whitespace": b" \r\n",
    "cut": b'{"error": "cut o',
    "3,000 nested objects": b'{"error":' * 3000,
    "60,000 nested lists": b"[" * 60_000,
    "NaN, 1e999 and a lone surrogate": b'{"error": NaN, "message": 1e999, "detail": "\\ud800"}',
    "invalid UTF-8": b"\xff\xfe\0\x1b[31m" * 2000,
    "control characters": b'{"error": "some words\\u0000\\u001b[2J\\r\\n\\u202e"}',
    "digits": b"1" * 70_000,
    "null": b"null",
    "a number": b"5",
    "an empty list": b"[]",
    "an empty object": b"{}",
    "errors of other types": b'{"error": {"message": {"a": [1]}, "code": [], "type": 7,'
    b' "details": "x", "metadata": 5}, "detail": {"detail": 5}}',
    "an error in an error": b'{"error": {"error": {"error": {"message": "some words"}}}}',
    "node errors of another type": b'{"error": {"message": "some words"},'
    b' "node_errors": [1, {"3": null}]}',
    "details of another type": b'{"error": {"message": "some words",'
    b' "details": [1, null, {"@type": 5, "retryDelay": {}, "reason": []}]}}',
    "a code of 60,000 characters": b'{"error": {"message": "some words", "code": "'
    + b"x" * 60_000
    + b'"}}',
    "16 MiB": b'{"error": "some words", "more": "' + b"x" * (16 << 20),
    "a byte order mark": b'\xef\xbb\xbf{"error": "some words"}',
    "UTF-16": '{"error": "some words"}'.encode("utf-16"),
    "gzip coding without gzip data": b"",
}


def _unreadable_faults() -> list[Fault]:
    statuses = list(STATUSES.items())
    calls = [
        make(name)
        for name in ("openaicompatible", "anthropic", "gemini", "ollama", "openai")
        for make in (reply_call, stream_call)
    ]
    faults = []
    for number, (description, body) in enumerate(UNREADABLE_BODIES.items()):
        for offset in (0, 7, 14):
            status, kind = statuses[(number + offset) % len(statuses)]
            call = calls[(number + offset) % len(calls)]
            coding = {"content-encoding": "gzip"} if description.startswith("gzip") else {}
            data = b"no gzip" if coding else body
            faults.append(
                Fault(
                    "unreadable error bodies",
                    f"{description} with {status} to {call.name}",
                    stays(http_response(data, status, coding)),
                    kind if not coding else (kind, md.BadResponseError),
                    call,
                    status=status,
                    requests=1,
                )
            )
    return faults


def _loading_faults() -> list[Fault]:
    """llama.cpp answers so while it loads a model: the call waits, although it has one attempt."""
    body = http_response(_engine(503, "unavailable_error"), 503, {"retry-after-ms": "50"})
    return [
        Fault(
            "errors of llama.cpp",
            f"a model is loading, {call.name}",
            stays(body),
            is_fine,
            call,
            requests=2,
        )
        for call in (reply_call("openaicompatible"), stream_call("openaicompatible"))
    ]


FAULTS = [
    replace(fault, rotates=True)
    for fault in _error_faults() + _unreadable_faults() + _loading_faults()
]
