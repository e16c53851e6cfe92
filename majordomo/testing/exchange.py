"""One recorded exchange: the request, the response chunk by chunk, and how it ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from majordomo import errors
from majordomo.errors import MajordomoError
from majordomo.testing.body_encoding import AddImage, decode_body, encode_body, split_body
from majordomo.testing.errors import RecordingError
from majordomo.testing.request_matching import RecordedRequest, map_texts

VERSION = 1
Ended = Literal["complete", "abandoned"]


@dataclass(frozen=True, slots=True)
class RecordedResponse:
    """The response of the backend."""

    status: int
    """HTTP status."""
    headers: Mapping[str, str]
    """The recorded headers, with lower-case names."""
    chunks: tuple[bytes, ...] = ()
    """The decoded body in the chunks in which it arrived."""
    ended: Ended = "complete"
    """Either "complete", or "abandoned" when the reader closed the stream before the end."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and what came back."""

    request: RecordedRequest
    """The normalized request."""
    number: int
    """Counts the exchanges with an equal request, from 1."""
    response: RecordedResponse | None = None
    """None when no response arrived."""
    error: MajordomoError | None = field(default=None, compare=False)
    """The error that ended the exchange, after all chunks of the response."""

    @property
    def name(self) -> str:
        """File name of the recording."""
        return f"{self.request.name}-{self.number}.json"


def dump(exchange: Exchange, add_image: AddImage, redact: Callable[[str], str]) -> dict[str, Any]:
    """Convert an exchange to plain JSON and pass its images to `add_image`.

    Texts of an error are redacted here; everything else has been redacted before.
    """
    request, response, error = exchange.request, exchange.response, exchange.error
    request_fields: dict[str, Any] = {
        "method": request.method,
        "path": request.path,
        "body": request.body,
    }
    if request.ids:
        request_fields["ids"] = list(request.ids)
    document: dict[str, Any] = {
        "version": VERSION,
        "number": exchange.number,
        "request": request_fields,
    }
    if response is not None:
        document["response"] = {
            "status": response.status,
            "headers": dict(response.headers),
            "chunks": " ".join(str(len(chunk)) for chunk in response.chunks),
            "body": encode_body(b"".join(response.chunks), add_image),
            "ended": response.ended,
        }
    if error is not None:
        document["error"] = _dump_error(error, redact)
    return document


def load(document: Any, read_image: Callable[[str], bytes]) -> Exchange:
    """Convert the JSON that `dump` returns back to an exchange.

    Raises:
        RecordingError: The document is not a recording, or an image is missing.
    """
    try:
        if document["version"] != VERSION:
            raise RecordingError(
                f"version must be {VERSION}; got {document['version']!r}. Record it again"
            )
        request_fields, response_fields = document["request"], document.get("response")
        request = RecordedRequest(
            str(request_fields["method"]),
            str(request_fields["path"]),
            request_fields["body"],
            tuple(request_fields.get("ids", ())),
        )
        response = None
        if response_fields is not None:
            body = decode_body(response_fields["body"], read_image)
            lengths = [int(length) for length in response_fields["chunks"].split()]
            if sum(lengths) != len(body):
                raise RecordingError(
                    f"chunks add up to {sum(lengths)} bytes, but the body has {len(body)}; "
                    "the file was edited"
                )
            response = RecordedResponse(
                int(response_fields["status"]),
                dict(response_fields["headers"]),
                tuple(split_body(body, lengths)),
                response_fields["ended"],
            )
        error = _load_error(document["error"]) if "error" in document else None
        return Exchange(request, int(document["number"]), response, error)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RecordingError(f"not a recording ({type(error).__name__}: {error})") from None


def _dump_error(error: MajordomoError, redact: Callable[[str], str]) -> dict[str, Any]:
    fields: dict[str, Any] = {"type": type(error).__name__, "code": error.code}
    fields |= map_texts({"message": error.message, "details": error.details}, redact)
    if isinstance(error, errors.DeadlineExceededError):
        fields["phase"] = error.phase
    if error.retryable is not type(error).retryable:
        fields["retryable"] = error.retryable
    return fields


def _load_error(fields: Mapping[str, Any]) -> MajordomoError:
    error_type = getattr(errors, str(fields["type"]), None)
    if not (isinstance(error_type, type) and issubclass(error_type, MajordomoError)):
        raise RecordingError(f"{fields['type']!r} is not an error class of majordomo")
    optional = {name: fields[name] for name in ("phase", "retryable") if name in fields}
    error: MajordomoError = error_type(
        fields["message"], code=fields["code"], details=fields["details"], **optional
    )
    return error
