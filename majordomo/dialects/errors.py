"""Map an HTTP error response to an exception: one mapping for every dialect.

The mapping is total: any status, headers and body give a `MajordomoError`. These bodies are
recognized:

* `{"error":"text"}`
* `{"error":"code","message":"text"}` (sd-server)
* `{"src":"llama-swap","error":"text"|{...}}`
* `{"error":{message,type,param,code}}` (OpenAI and many others)
* `{"error":{code,message,status,details}}` (Gemini)
* `{"error":{type,message,details},"node_errors":{}}` (ComfyUI)
* `{"error":"Code","detail":"text","errors":"text"}` (A1111)
* `{"detail":"text"|[...]}` (FastAPI)
* `{"detail":[{loc,msg,type}]}` and `{"detail":"text","error_type":"code"}` (fal)
* `{"object":"error","message":...}` (vLLM)
* text/plain, HTML, and an empty body

The exception class follows from the status and from the error codes of the backends, never from
the wording of a message.
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
    JobCancelledError,
    JobLostError,
    MajordomoError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    RateLimitError,
    UnsupportedError,
)
from majordomo.framing.json import decode_json
from majordomo.redaction import TRUNCATION_MARK, redact_details

MAX_RETRY_AFTER_SECONDS = 1e9
_EMPTY_BODY_MESSAGES = {
    404: "no such route or model; the response is empty",
    502: (
        "the process behind the gateway crashed or refused the connection; the response is empty"
    ),
}

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

# The error codes of the backends, in `code`, `type` or `status`: (exception class, our code).
_BY_BACKEND_CODE: dict[str, tuple[type[MajordomoError], str | None]] = {
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
    "client_cancelled": (JobCancelledError, None),  # fal
}


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """The contents of an error body, independent of its shape."""

    message: str = ""
    """The backend's message; empty when the body has none."""
    codes: tuple[str, ...] = ()
    """The backend's error codes; the first becomes `backend_code` in `MajordomoError.details`."""
    source: str = ""
    """The server that reports the error, such as "llama-swap"; empty when it is not named."""
    details: Mapping[str, Any] | None = None
    """Further values for `MajordomoError.details`."""


def read_error_body(body: bytes, content_type: str = "") -> ErrorBody:
    """Parse an error body; a body of unknown shape is quoted. Never raises."""
    text = body.decode("utf-8", "replace").strip()
    if not text:
        return ErrorBody()
    # Parse JSON regardless of the content type: some servers send it as octet-stream or text.
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
            else re.sub(r"<[^>]*>", " ", text[:400]) + (TRUNCATION_MARK if len(text) > 400 else "")
        )
        return ErrorBody(f"a web page: {' '.join(heading.split())}")
    return ErrorBody(text)


def read_error_value(value: Any) -> ErrorBody:
    """Read an error body that is already parsed, such as an event of a stream."""
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
    """Build the exception for a response whose status is not a success.

    `now` is the Unix time in seconds, `redact` removes secrets from text, and `missing_is` is the
    message for a 404 of this route with an empty body.
    """
    error_body = read_error_body(body, headers.get("content-type", "").lower())
    return build_error(status, error_body, headers, now=now, redact=redact, missing_is=missing_is)


def build_error(
    status: int,
    error_body: ErrorBody,
    headers: Mapping[str, str],
    *,
    now: float = 0.0,
    redact: Callable[[str], str] = str,
    missing_is: str = "",
) -> MajordomoError:
    """Build the exception for a parsed error body; status 200 is an error within a success.

    The other arguments are those of `error_from_reply`.
    """
    error_class, code = _classify(status, error_body)
    if 300 <= status < 400:
        error_body = ErrorBody("the backend sent a redirect; redirects are never followed")
    message = (
        error_body.message
        or (missing_is if status == 404 else "")
        or _EMPTY_BODY_MESSAGES.get(status, "the backend returned an error without a message")
    )
    if error_body.source:
        message = f"{error_body.source}: {message}"
    error = error_class(
        redact(f"{message} (HTTP {status})" if status != 200 else message), code=code, status=status
    )
    error.details.update(redact_details(error_body.details or {}, redact))
    if error_body.codes:
        error.details["backend_code"] = redact(error_body.codes[0])
    error.retry_after = retry_after(headers, error_body, now)
    if error.code in ("QUOTA_EXHAUSTED", "REDIRECT"):
        error.retryable = False
    # fal's documentation has the second name for the same thing.
    should_retry = headers.get("x-should-retry", headers.get("x-fal-retryable", ""))
    should_retry = should_retry.strip().lower()
    if should_retry in ("true", "false"):
        error.retryable = should_retry == "true"
    if (request_id := headers.get("x-request-id", headers.get("x-fal-request-id"))) is not None:
        error.details["request_id"] = redact(request_id)[:200]
    return error


def _classify(status: int, error_body: ErrorBody) -> tuple[type[MajordomoError], str | None]:
    """Return the exception class and our error code; codes of the backend override the status."""
    for backend_code in error_body.codes:
        if (known := _BY_BACKEND_CODE.get(backend_code.lower())) is not None:
            return known
    # llama.cpp while it loads a model.
    if status == 503 and "unavailable_error" in error_body.codes:
        return OverloadedError, "MODEL_LOADING"
    # "not loaded; path matches ignorePaths": waiting does not help.
    if status == 409 and error_body.source == "llama-swap":
        return InvalidRequestError, "CONFLICT"
    if status == 502 and not error_body.message:
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
    # Gemini wraps streamed errors in an array.
    if isinstance(value, list):
        return _from_json(value[0]) if value else ErrorBody()
    if isinstance(value, str):
        return ErrorBody(value)
    if not isinstance(value, dict):
        return ErrorBody()
    source = value["src"] if isinstance(value.get("src"), str) else ""
    error = value.get("error")
    if isinstance(error, dict):
        return _from_object(error, value, source)
    codes: tuple[str, ...] = ()
    texts = [text for name in ("message", "detail", "errors") if (text := _text(value.get(name)))]
    message = texts[0] if texts else ""
    if isinstance(error, str) and error:
        # Next to a message or detail, `error` is a code: "server_error", "OutOfMemoryError",
        # "HTTPException".
        if message:
            codes = (error,)
        else:
            message = error
    if isinstance(value.get("code"), str):
        codes += (value["code"],)
    for name in ("type", "error_type"):
        if isinstance(value.get(name), str):
            codes += (value[name],)
    codes += _detail_types(value.get("detail"))
    if len(texts) > 1:
        message = "; ".join(dict.fromkeys(texts))
    # Ollama sends this URL when the user is not signed in.
    url = value.get("signin_url")
    return ErrorBody(
        message, codes, source, {"signin_url": url} if isinstance(url, str) and url else None
    )


def _from_object(error: dict[str, Any], document: dict[str, Any], source: str) -> ErrorBody:
    """Read the error object of a body; `document` is the body."""
    codes = tuple(
        code
        for name in ("code", "type", "status")
        if isinstance(code := error.get(name), str) and code
    )
    message = _text(error.get("message")) or _text(error.get("detail"))
    details: dict[str, Any] = {}
    for name in ("param", "n_prompt_tokens", "n_ctx"):
        if isinstance(error.get(name), (str, int)):
            details[name] = error[name]
    metadata = error.get("metadata")
    # OpenRouter quotes the provider that it called.
    if isinstance(metadata, dict):
        upstream_message = _text(metadata.get("raw"))
        message = f"{message}: {upstream_message}" if upstream_message else message
    # ComfyUI lists the errors of each node.
    if isinstance(document.get("node_errors"), dict):
        for node, node_report in list(document["node_errors"].items())[:5]:
            node_errors = node_report.get("errors") if isinstance(node_report, dict) else None
            for node_error in node_errors[:3] if isinstance(node_errors, list) else []:
                if isinstance(node_error, dict):
                    info = node_error.get("extra_info")
                    if (
                        node_error.get("type") == "value_not_in_list"
                        and isinstance(info, dict)
                        and info.get("input_name") == "ckpt_name"
                    ):
                        codes += ("model_not_found",)
                    description = _text(node_error.get("message"))
                    reason = _text(node_error.get("details"))
                    message += f"; node {node}: {description} {reason}".rstrip()
    extra = error.get("details")
    if isinstance(extra, str) and extra:
        message = f"{message}: {extra}" if message else extra
    # Anthropic names the kind of limit here.
    if isinstance(extra, dict) and isinstance(extra.get("error_code"), str):
        codes += (extra["error_code"],)
    if isinstance(extra, list):
        codes += _error_info_reasons(extra)
        if (seconds := _retry_info_seconds(extra)) is not None:
            details["retry_after"] = seconds
    return ErrorBody(message or (codes[0] if codes else ""), codes, source, details)


def _text(value: Any) -> str:
    """Return a text, FastAPI's list of `{loc, msg}`, or an object around either, as one line."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return _text(value.get("detail")) or _text(value.get("msg")) or _text(value.get("message"))
    if isinstance(value, list):
        lines = []
        for item in value[:5]:
            location = (
                ".".join(str(step) for step in item["loc"])
                if isinstance(item, dict) and isinstance(item.get("loc"), list)
                else ""
            )
            text = _text(item)
            lines.append(f"{location}: {text}" if location else text)
        return "; ".join(line for line in lines if line)
    return ""


def _detail_types(detail: Any) -> tuple[str, ...]:
    """Return the types in the first five entries of FastAPI's list, each an error code."""
    types = (
        item.get("type")
        for item in (detail[:5] if isinstance(detail, list) else ())
        if isinstance(item, dict)
    )
    return tuple(type_ for type_ in types if isinstance(type_, str) and type_)


_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s")


def _error_info_reasons(details: list[Any]) -> tuple[str, ...]:
    """Return the reasons of google.rpc.ErrorInfo in the first ten entries, each an error code.

    Example: `{"@type":"…ErrorInfo","reason":"API_KEY_INVALID"}`.
    """
    reasons = (item.get("reason") for item in details[:10] if isinstance(item, dict))
    return tuple(reason for reason in reasons if isinstance(reason, str) and reason)


def _retry_info_seconds(details: list[Any]) -> float | None:
    """Return the delay of google.rpc.RetryInfo in seconds.

    Example: `{"@type":"…RetryInfo","retryDelay":"3.5s"}`.
    """
    for item in details:
        if isinstance(item, dict) and str(item.get("@type", "")).endswith("RetryInfo"):
            duration = _DURATION.fullmatch(str(item.get("retryDelay", "")))
            if duration:
                return float(duration[1])
    return None


def retry_after(
    headers: Mapping[str, str], error_body: ErrorBody | None = None, now: float = 0.0
) -> float | None:
    """Return the seconds that the backend asks us to wait, 0 to 1e9, or None.

    The first of these that is present counts: `retry-after-ms`, `retry-after` (seconds or an HTTP
    date, relative to the Unix time `now`), RetryInfo in the body. Any text gives a value in range
    or None, never an exception.
    """
    milliseconds = _seconds(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    header = headers.get("retry-after")
    if header is not None:
        seconds = _seconds(header)
        if seconds is None:
            # Imported here because dates are rare and the modules are slow to load.
            from datetime import UTC
            from email.utils import parsedate_to_datetime

            try:
                date = parsedate_to_datetime(header.strip())
                # HTTP dates are in UTC, also in the form without a zone. Local time would depend on
                # the machine, and Windows has none before 1970.
                seconds = date.replace(tzinfo=date.tzinfo or UTC).timestamp() - now
            except (ValueError, TypeError, OverflowError, IndexError):
                seconds = None
        if seconds is not None:
            return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)
    body_seconds = (error_body.details or {}).get("retry_after") if error_body is not None else None
    if isinstance(body_seconds, (int, float)):
        return min(float(body_seconds), MAX_RETRY_AFTER_SECONDS)
    return None


def _seconds(text: str | None) -> float | None:
    """Parse a number of seconds or milliseconds; None for anything else."""
    # Only the white space of HTTP (RFC 9110, 5.6.3): `float` rejects some characters that Python's
    # `\s` matches.
    number = re.fullmatch(r"[ \t]*([0-9]{1,15}(?:\.[0-9]{0,9})?)[ \t]*", text or "")
    return min(float(number[1]), MAX_RETRY_AFTER_SECONDS) if number else None
