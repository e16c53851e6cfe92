"""One mapping from an error answer to an error, total over any status, headers and body.

Bodies understood: `{"error":"text"}`, `{"error":"word","message":"text"}` (sd-server), `{"src":"llama-swap","error":"text"|{...}}`,
`{"error":{message,type,param,code}}` (OpenAI and many), `{"error":{code,message,status,details}}` (Gemini),
`{"error":{type,message,details},"node_errors":{}}` (ComfyUI), `{"error":"Word","detail":"text","errors":"text"}` (A1111),
`{"detail":"text"|[...]}` (FastAPI), `{"object":"error","message":...}` (vLLM), text/plain, HTML, and nothing at all.
The class follows from the status and from the words backends use as codes, never from the wording of a message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from majordomo.errors import (
    AuthenticationError,
    BackendError,
    BadResponseError,
    ContentRefusedError,
    InvalidRequestError,
    JobLostError,
    MajordomoError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    RateLimitError,
    UnsupportedError,
)
from majordomo.framing.json import decode_json
from majordomo.redaction import CUT, redact_details

LONGEST_WAIT = 1e9

_BY_STATUS: dict[int, tuple[type[MajordomoError], str | None]] = {
    400: (InvalidRequestError, None),
    401: (AuthenticationError, None),
    402: (PermissionDeniedError, "PAYMENT_REQUIRED"),
    403: (PermissionDeniedError, None),
    404: (NotFoundError, None),
    405: (UnsupportedError, None),
    408: (OverloadedError, "REQUEST_TIMEOUT"),
    409: (OverloadedError, "CONFLICT"),
    410: (JobLostError, None),
    413: (InvalidRequestError, "TOO_LARGE"),
    425: (OverloadedError, "TOO_EARLY"),
    429: (RateLimitError, None),
    451: (ContentRefusedError, None),
    498: (OverloadedError, None),  # Groq: capacity
    501: (UnsupportedError, None),
    503: (OverloadedError, None),
    529: (OverloadedError, None),  # Anthropic: overloaded
}

# The words backends use as `code`, `type` or `status`: (class, our code)
_BY_WORD: dict[str, tuple[type[MajordomoError], str | None]] = {
    "moderation_blocked": (ContentRefusedError, None),
    "content_policy_violation": (ContentRefusedError, None),
    "image_content_policy_violation": (ContentRefusedError, None),
    "content_filter": (ContentRefusedError, None),
    "insufficient_quota": (RateLimitError, "QUOTA_EXHAUSTED"),
    "enforced_spend_limit_reached": (RateLimitError, "QUOTA_EXHAUSTED"),  # Anthropic
    "model_not_found": (NotFoundError, "MODEL_NOT_FOUND"),
    "context_length_exceeded": (InvalidRequestError, "CONTEXT_TOO_LONG"),
    "exceed_context_size_error": (InvalidRequestError, "CONTEXT_TOO_LONG"),  # llama.cpp
    "outofmemoryerror": (BackendError, "GPU_OOM"),  # A1111 names torch's exception
    "tool_use_failed": (InvalidRequestError, "TOOL_USE_FAILED"),  # Groq
    "api_key_invalid": (AuthenticationError, None),  # Google: a 400 by its status
}


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """What an error body says, whatever its shape."""

    message: str = ""
    codes: tuple[str, ...] = ()
    source: str = ""
    details: Mapping[str, Any] | None = None


def read_error_body(body: bytes, content_type: str = "") -> ErrorBody:
    """Never raises: a body that nobody understands is quoted."""
    text = body.decode("utf-8", "replace").strip()
    if not text:
        return ErrorBody()
    # "parse JSON regardless of content type": some send it as octet-stream or text
    if text[0] in "{[":
        try:
            return _from_json(decode_json(body))
        except BadResponseError:
            pass
    if "html" in content_type or text[:1] == "<":
        title = re.search(r"<title[^>]*>(.*?)</title>", text[:4096], re.IGNORECASE | re.DOTALL)
        heading = (
            title[1]
            if title
            else re.sub(r"<[^>]*>", " ", text[:400]) + (CUT if len(text) > 400 else "")
        )
        return ErrorBody(f"a web page: {' '.join(heading.split())}")
    return ErrorBody(text)


def error_value(value: Any) -> ErrorBody:
    """The same for a body that is parsed already, such as an event of a stream."""
    return _from_json(value)


def error_from_reply(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: float = 0.0,
    redact: Callable[[str], str] = str,
    missing_is: str = "",
) -> MajordomoError:
    """The error for an answer that is no success. `now` is the Unix time, `hide` removes secrets from text,
    `missing_is` says what a bare 404 of this route means."""
    said = read_error_body(body, headers.get("content-type", "").lower())
    return build_error(status, said, headers, now=now, redact=redact, missing_is=missing_is)


def build_error(
    status: int,
    said: ErrorBody,
    headers: Mapping[str, str],
    *,
    now: float = 0.0,
    redact: Callable[[str], str] = str,
    missing_is: str = "",
) -> MajordomoError:
    kind, code = _decide(status, said)
    if 300 <= status < 400:
        said = ErrorBody("the backend redirects elsewhere, which is never followed")
    message = (
        said.message
        or (missing_is if status == 404 else "")
        or _EMPTY.get(status, "an answer without a word of explanation")
    )
    if said.source:
        message = f"{said.source}: {message}"
    error = kind(
        redact(f"{message} (HTTP {status})" if status != 200 else message), code=code, status=status
    )
    error.details.update(redact_details(said.details or {}, redact))
    if said.codes:
        error.details["backend_code"] = redact(said.codes[0])
    error.retry_after = retry_after(headers, said, now)
    if error.code in ("QUOTA_EXHAUSTED", "REDIRECT"):
        error.retryable = False
    wish = headers.get("x-should-retry", "").strip().lower()
    if wish in ("true", "false"):
        error.retryable = wish == "true"
    if (request_id := headers.get("x-request-id")) is not None:
        error.details["request_id"] = redact(request_id)[:200]
    return error


_EMPTY = {
    404: "no such route or model; the answer is empty",
    502: "the process behind the gateway died or refused the connection; the answer is empty",
}


def _decide(status: int, said: ErrorBody) -> tuple[type[MajordomoError], str | None]:
    for word in said.codes:
        if (found := _BY_WORD.get(word.lower())) is not None:
            return found
    if status == 503 and "unavailable_error" in said.codes:  # llama.cpp while it loads
        return OverloadedError, "MODEL_LOADING"
    if (
        status == 409 and said.source == "llama-swap"
    ):  # "not loaded; path matches ignorePaths": waiting does not help
        return InvalidRequestError, "CONFLICT"
    if status == 502 and not said.message:
        return BackendError, "UPSTREAM_DIED"
    if (known := _BY_STATUS.get(status)) is not None:
        return known
    if 300 <= status < 400:
        return BadResponseError, "REDIRECT"
    if 400 <= status < 500:
        return InvalidRequestError, None
    if 500 <= status < 600:
        return BackendError, None
    return (BackendError, None) if status == 200 else (BadResponseError, "BAD_STATUS")


def _from_json(value: Any) -> ErrorBody:
    if isinstance(value, list):  # Gemini wraps streamed errors in an array
        return _from_json(value[0]) if value else ErrorBody()
    if isinstance(value, str):
        return ErrorBody(value)
    if not isinstance(value, dict):
        return ErrorBody()
    source = value["src"] if isinstance(value.get("src"), str) else ""
    error = value.get("error")
    if isinstance(error, dict):
        return _from_object(error, value, source)
    words: tuple[str, ...] = ()
    reasons = [_text(value.get(name)) for name in ("message", "detail", "errors")]
    message = next((reason for reason in reasons if reason), "")
    if isinstance(error, str) and error:
        # beside a message or detail, `error` is a word: "server_error", "OutOfMemoryError", "HTTPException"
        if message:
            words = (error,)
        else:
            message = error
    if isinstance(value.get("code"), str):
        words += (value["code"],)
    if isinstance(value.get("type"), str):
        words += (value["type"],)
    if len([reason for reason in reasons if reason]) > 1:
        message = "; ".join(dict.fromkeys(reason for reason in reasons if reason))
    where = value.get("signin_url")  # Ollama without an account
    return ErrorBody(
        message, words, source, {"signin_url": where} if isinstance(where, str) and where else None
    )


def _from_object(error: dict[str, Any], whole: dict[str, Any], source: str) -> ErrorBody:
    words = tuple(
        word
        for name in ("code", "type", "status")
        if isinstance(word := error.get(name), str) and word
    )
    message = _text(error.get("message")) or _text(error.get("detail"))
    details: dict[str, Any] = {}
    for name in ("param", "n_prompt_tokens", "n_ctx"):
        if isinstance(error.get(name), (str, int)):
            details[name] = error[name]
    metadata = error.get("metadata")
    if isinstance(metadata, dict):  # OpenRouter quotes the provider behind it
        behind = _text(metadata.get("raw"))
        message = f"{message}: {behind}" if behind else message
    if isinstance(whole.get("node_errors"), dict):  # ComfyUI: which node, and why
        for node, trouble in list(whole["node_errors"].items())[:5]:
            faults = trouble.get("errors") if isinstance(trouble, dict) else None
            for fault in faults[:3] if isinstance(faults, list) else []:
                if isinstance(fault, dict):
                    asked = fault.get("extra_info")
                    if (
                        fault.get("type") == "value_not_in_list"
                        and isinstance(asked, dict)
                        and asked.get("input_name") == "ckpt_name"
                    ):
                        words += ("model_not_found",)
                    message += f"; node {node}: {_text(fault.get('message'))} {_text(fault.get('details'))}".rstrip()
    extra = error.get("details")
    if isinstance(extra, str) and extra:
        message = f"{message}: {extra}" if message else extra
    if isinstance(extra, dict) and isinstance(
        extra.get("error_code"), str
    ):  # Anthropic: what kind of limit it was
        words += (extra["error_code"],)
    if isinstance(extra, list):
        words += _reasons(extra)
        if (wait := _retry_info(extra)) is not None:
            details["retry_after"] = wait
    return ErrorBody(message or (words[0] if words else ""), words, source, details)


def _text(value: Any) -> str:
    """Text, or FastAPI's list of {loc, msg}, or its wrapping, as one line."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return _text(value.get("detail")) or _text(value.get("msg")) or _text(value.get("message"))
    if isinstance(value, list):
        found = []
        for item in value[:5]:
            where = (
                ".".join(str(step) for step in item["loc"])
                if isinstance(item, dict) and isinstance(item.get("loc"), list)
                else ""
            )
            what = _text(item)
            found.append(f"{where}: {what}" if where else what)
        return "; ".join(part for part in found if part)
    return ""


_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s")


def _reasons(details: list[Any]) -> tuple[str, ...]:
    """google.rpc.ErrorInfo in the body: `{"@type":"…ErrorInfo","reason":"API_KEY_INVALID"}`. Of the first ten entries, each a word."""
    found = (item.get("reason") for item in details[:10] if isinstance(item, dict))
    return tuple(reason for reason in found if isinstance(reason, str) and reason)


def _retry_info(details: list[Any]) -> float | None:
    """google.rpc.RetryInfo in the body: `{"@type":"…RetryInfo","retryDelay":"3.5s"}`."""
    for item in details:
        if isinstance(item, dict) and str(item.get("@type", "")).endswith("RetryInfo"):
            found = _DURATION.fullmatch(str(item.get("retryDelay", "")))
            if found:
                return float(found[1])
    return None


def retry_after(
    headers: Mapping[str, str], said: ErrorBody | None = None, now: float = 0.0
) -> float | None:
    """Seconds the backend asks us to wait, 0 to 1e9, or None: `retry-after-ms`, `retry-after` (seconds or an HTTP date), RetryInfo.

    Any text gives a wait in range or None, never an exception.
    """
    milliseconds = _seconds(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    header = headers.get("retry-after")
    if header is not None:
        seconds = _seconds(header)
        if seconds is None:
            from email.utils import parsedate_to_datetime  # rare, and slow to load

            try:
                seconds = parsedate_to_datetime(header.strip()).timestamp() - now
            except (ValueError, TypeError, OverflowError, IndexError):
                seconds = None
        if seconds is not None:
            return min(max(seconds, 0.0), LONGEST_WAIT)
    wait = (said.details or {}).get("retry_after") if said is not None else None
    return min(float(wait), LONGEST_WAIT) if isinstance(wait, (int, float)) else None


def _seconds(text: str | None) -> float | None:
    # White space as HTTP has it (RFC 9110, 5.6.3); what else Python takes for it is none to `float`
    found = re.fullmatch(r"[ \t]*([0-9]{1,15}(?:\.[0-9]{0,9})?)[ \t]*", text or "")
    return min(float(found[1]), LONGEST_WAIT) if found else None
