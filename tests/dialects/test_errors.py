from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import majordomo as md
from majordomo.dialects.errors import error_from_reply, retry_after
from tests.support.hypothesis_effort import max_examples

# Every shape of error body that the backends are known to send:
# (status, body, exception class, text that the message must contain).
BODIES = {
    "sd-server text": (400, {"error": "invalid params"}, md.InvalidRequestError, "invalid params"),
    "sd-server code and message": (
        500,
        {"error": "server_error", "message": "[json.exception.302]"},
        md.BackendError,
        "[json.exception.302]",
    ),
    "sd-server failed": (
        500,
        {"error": "generate_image returned no results"},
        md.BackendError,
        "generate_image returned no results",
    ),
    "sd-server job lost": (410, {"error": "job expired"}, md.JobLostError, "job expired"),
    "sd-server queue": (
        429,
        {"error": "job queue is full"},
        md.RateLimitError,
        "job queue is full",
    ),
    "llama-swap text": (
        404,
        {"src": "llama-swap", "error": "no router for requested model"},
        md.NotFoundError,
        "llama-swap: no router",
    ),
    "llama-swap object": (
        500,
        {
            "src": "llama-swap",
            "error": {
                "message": "unspecific error: exited prematurely",
                "type": "server_error",
                "code": "internal_error",
            },
        },
        md.BackendError,
        "exited prematurely",
    ),
    "llama-swap conflict": (
        409,
        {"src": "llama-swap", "error": {"message": "model x is not loaded", "code": "conflict"}},
        md.InvalidRequestError,
        "not loaded",
    ),
    "llama-swap plain": (
        503,
        "llama-swap-error: [sdxl] process is not ready",
        md.OverloadedError,
        "process is not ready",
    ),
    "openai": (
        401,
        {
            "error": {
                "message": "bad key",
                "type": "invalid_request_error",
                "param": None,
                "code": "invalid_api_key",
            }
        },
        md.AuthenticationError,
        "bad key",
    ),
    "openai quota": (
        429,
        {"error": {"message": "pay", "type": "insufficient_quota", "code": "insufficient_quota"}},
        md.RateLimitError,
        "pay",
    ),
    "openai refusal": (
        400,
        {
            "error": {
                "message": "no",
                "type": "image_generation_user_error",
                "code": "moderation_blocked",
            }
        },
        md.ContentRefusedError,
        "no",
    ),
    "openai context": (
        400,
        {"error": {"message": "too long", "code": "context_length_exceeded"}},
        md.InvalidRequestError,
        "too long",
    ),
    "gemini": (
        429,
        {"error": {"code": 429, "message": "slow", "status": "RESOURCE_EXHAUSTED", "details": []}},
        md.RateLimitError,
        "slow",
    ),
    "comfyui": (
        400,
        {
            "error": {
                "type": "prompt_outputs_failed_validation",
                "message": "Prompt outputs failed validation",
                "details": "",
                "extra_info": {},
            },
            "node_errors": {
                "3": {
                    "errors": [
                        {
                            "type": "value_not_in_list",
                            "message": "Value not in list",
                            "details": "sampler_name: 'x'",
                        }
                    ]
                }
            },
        },
        md.InvalidRequestError,
        "node 3: Value not in list sampler_name: 'x'",
    ),
    "a1111 memory": (
        500,
        {"error": "OutOfMemoryError", "detail": "", "body": "", "errors": "CUDA out of memory"},
        md.BackendError,
        "CUDA out of memory",
    ),
    "a1111": (
        500,
        {"error": "HTTPException", "detail": "Sampler not found", "errors": ""},
        md.BackendError,
        "Sampler not found",
    ),
    "fastapi text": (401, {"detail": "Invalid API key"}, md.AuthenticationError, "Invalid API key"),
    "fastapi list": (
        422,
        {"detail": [{"loc": ["body", "steps"], "msg": "not a number", "type": "x"}]},
        md.InvalidRequestError,
        "body.steps: not a number",
    ),
    "vllm": (
        400,
        {"object": "error", "message": "bad tools", "type": "BadRequestError", "code": 400},
        md.InvalidRequestError,
        "bad tools",
    ),
    "mistral": (
        422,
        {"object": "error", "message": {"detail": [{"loc": ["x"], "msg": "extra"}]}, "type": "t"},
        md.InvalidRequestError,
        "x: extra",
    ),
    "openrouter": (
        429,
        {
            "error": {
                "code": 429,
                "message": "Provider returned error",
                "metadata": {"raw": "upstream says no"},
            }
        },
        md.RateLimitError,
        "upstream says no",
    ),
    "llama.cpp loading": (
        503,
        {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}},
        md.OverloadedError,
        "Loading model",
    ),
    "text": (500, "Internal Server Error", md.BackendError, "Internal Server Error"),
    "web page": (
        502,
        "<html><title>502 Bad Gateway</title></html>",
        md.BackendError,
        "502 Bad Gateway",
    ),
    "empty 404": (404, "", md.NotFoundError, "no such route"),
    "empty 502": (502, "", md.BackendError, "crashed"),
    "router without the model": (
        400,
        {"error": {"code": 400, "message": "model 'x' not found", "type": "invalid_request_error"}},
        md.InvalidRequestError,
        "'x' not found",
    ),
}


@pytest.mark.parametrize(
    ("status", "body", "error_class", "text"), BODIES.values(), ids=BODIES.keys()
)
def test_every_known_error_body_keeps_its_message(
    status: int, body: object, error_class: type[md.MajordomoError], text: str
) -> None:
    raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    error = error_from_reply(status, {}, raw)
    assert type(error) is error_class
    assert text in str(error)
    assert error.status == status


@pytest.mark.parametrize(
    ("name", "code", "retryable"),
    [
        ("openai quota", "QUOTA_EXHAUSTED", False),
        ("gemini", "RATE_LIMITED", True),
        ("a1111 memory", "GPU_OOM", True),
        ("llama.cpp loading", "MODEL_LOADING", True),
        ("empty 502", "UPSTREAM_DIED", True),
        ("openai context", "CONTEXT_TOO_LONG", False),
        ("llama-swap conflict", "CONFLICT", False),
        ("openai refusal", "CONTENT_REFUSED", False),
    ],
)
def test_error_codes_decide_whether_to_retry(name: str, code: str, retryable: bool) -> None:
    status, body, _, _ = BODIES[name]
    error = error_from_reply(
        status, {}, body.encode() if isinstance(body, str) else json.dumps(body).encode()
    )
    assert (error.code, error.retryable) == (code, retryable)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: (
        st.lists(children)
        | st.dictionaries(
            st.sampled_from(
                [
                    "error",
                    "message",
                    "detail",
                    "errors",
                    "code",
                    "type",
                    "status",
                    "details",
                    "src",
                    "metadata",
                    "raw",
                    "node_errors",
                    "msg",
                    "loc",
                    "@type",
                ]
            )
            | st.text(),
            children,
        )
    ),
)


@given(
    st.integers(-5, 1000),
    st.binary() | JSON.map(lambda v: json.dumps(v).encode()),
    st.dictionaries(
        st.sampled_from(
            ["content-type", "retry-after", "retry-after-ms", "x-should-retry", "x-request-id"]
        ),
        st.text(),
    ),
)
def test_the_mapping_is_total(status: int, body: bytes, headers: dict[str, str]) -> None:
    error = error_from_reply(status, headers, body, now=1e9)
    assert isinstance(error, md.MajordomoError)
    assert str(error).isprintable()
    assert len(str(error)) <= 2048
    json.dumps(error.to_dict())
    assert error.retry_after is None or 0 <= error.retry_after <= 1e9


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250.5"}, 0.2505),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "Mon, 23 Nov 2026 12:00:10 GMT"}, 10),
        ({"retry-after": "Mon, 23 Nov 2026 11:00:00 GMT"}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": " 3\t"}, 3),
        ({"retry-after": "\x1d3"}, None),  # white space for `re`, but not for `float`
        ({"retry-after": "\u20033"}, None),
        ({"retry-after-ms": "\x1f250"}, None),
        ({}, None),
    ],
)
def test_every_form_of_retry_after_is_parsed(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert retry_after(headers, now=1795435200.0) == seconds


# Text that an HTTP field may hold (RFC 9110, 5.5), other characters that Python accepts as white
# space, digits or signs, and the beginnings of dates.
_HEADER_TEXTS = st.text(st.characters(max_codepoint=255)) | st.lists(
    st.sampled_from(
        [
            *"0123456789+-.:, \t\x1c\x1d\x1e\x1f\x85\xa0\u2003\u0663",
            "Mon",
            "Nov",
            "GMT",
            "2026",
            "e9",
            "inf",
            "nan",
            "_",
        ]
    )
).map("".join)


@settings(max_examples=max_examples(300))
@given(
    _HEADER_TEXTS,
    st.sampled_from(["retry-after", "retry-after-ms"]),
    st.sampled_from([0.0, 1795435200.0]),
)
def test_any_retry_after_text_gives_seconds_in_range_or_none(
    text: str, name: str, now: float
) -> None:
    seconds = retry_after({name: text}, now=now)
    assert seconds is None or 0 <= seconds <= 1e9
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": text}]
    error = error_from_reply(
        429,
        {name: text},
        json.dumps({"error": {"code": 429, "message": "x", "details": details}}).encode(),
        now=now,
    )
    assert error.retry_after is None or 0 <= error.retry_after <= 1e9


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the time zone cannot be changed")
@pytest.mark.parametrize(
    "date", ["Mon Nov 23 12:00:30 2026", "Mon, 23 Nov 2026 12:00:30 -0000"], ids=str
)
def test_a_date_without_a_zone_is_in_utc(monkeypatch: pytest.MonkeyPatch, date: str) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "XYZ-5")
        time.tzset()
        assert retry_after({"retry-after": date}, now=1795435200.0) == 30.0
    time.tzset()


def test_retry_info_in_the_body_is_read() -> None:
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7.5s"}]
    error = error_from_reply(
        429, {}, json.dumps({"error": {"code": 429, "message": "x", "details": details}}).encode()
    )
    assert error.retry_after == 7.5


@pytest.mark.parametrize(
    ("header", "status", "retryable"),
    [("true", 400, True), ("false", 503, False), ("maybe", 503, True)],
)
def test_x_should_retry_overrides_the_status(header: str, status: int, retryable: bool) -> None:
    assert error_from_reply(status, {"x-should-retry": header}, b"x").retryable is retryable


def test_a_redirect_is_neither_followed_nor_retried() -> None:
    error = error_from_reply(302, {"location": "http://evil.test"}, b"")
    assert type(error) is md.BadResponseError
    assert not error.retryable
    assert "evil" not in str(error)
