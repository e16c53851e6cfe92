"""One exchange as it is kept: what was asked, what came back piece by piece, and how it ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from majordomo import errors
from majordomo.errors import MajordomoError
from majordomo.testing.body_encoding import Keep, cut, decode_body, encode_body
from majordomo.testing.errors import RecordingError
from majordomo.testing.request_matching import RecordedRequest, mapped

VERSION = 1
Ended = Literal["whole", "left"]


@dataclass(frozen=True, slots=True)
class RecordedResponse:
    """Status, headers and the decoded pieces of the body. `ended` is "left" when the reader went away before the end."""

    status: int
    headers: Mapping[str, str]
    pieces: tuple[bytes, ...] = ()
    ended: Ended = "whole"


@dataclass(frozen=True, slots=True)
class Exchange:
    """`answer` is None when none came; `error` is what ended it instead, after all pieces of the answer. `number` counts the exchanges with
    the same request, from 1."""

    request: RecordedRequest
    number: int
    response: RecordedResponse | None = None
    error: MajordomoError | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        return f"{self.request.name}-{self.number}.json"


def dump(exchange: Exchange, keep: Keep, redact: Callable[[str], str]) -> dict[str, Any]:
    """Plain JSON; images are given to `keep`. The texts of an error are hidden here, all others are already."""
    asked, answer, error = exchange.request, exchange.response, exchange.error
    request: dict[str, Any] = {"method": asked.method, "path": asked.path, "body": asked.body}
    if asked.ids:
        request["ids"] = list(asked.ids)
    made: dict[str, Any] = {"version": VERSION, "number": exchange.number, "request": request}
    if answer is not None:
        made["answer"] = {
            "status": answer.status,
            "headers": dict(answer.headers),
            "pieces": " ".join(str(len(piece)) for piece in answer.pieces),
            "body": encode_body(b"".join(answer.pieces), keep),
            "ended": answer.ended,
        }
    if error is not None:
        made["error"] = _dump_error(error, redact)
    return made


def load(document: Any, read: Callable[[str], bytes]) -> Exchange:
    """The exchange that `dump` made. Raises RecordingError for anything else."""
    try:
        if document["version"] != VERSION:
            raise RecordingError(f"version {document['version']!r} of the format is not known here")
        request, answer = document["request"], document.get("answer")
        asked = RecordedRequest(
            str(request["method"]),
            str(request["path"]),
            request["body"],
            tuple(request.get("ids", ())),
        )
        came = None
        if answer is not None:
            body = decode_body(answer["body"], read)
            lengths = [int(length) for length in answer["pieces"].split()]
            if sum(lengths) != len(body):
                raise RecordingError(
                    f"the pieces have {sum(lengths)} bytes, the body {len(body)}; was it edited?"
                )
            came = RecordedResponse(
                int(answer["status"]),
                dict(answer["headers"]),
                tuple(cut(body, lengths)),
                answer["ended"],
            )
        error = _load_error(document["error"]) if "error" in document else None
        return Exchange(asked, int(document["number"]), came, error)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RecordingError(f"it is no recording ({type(error).__name__}: {error})") from None


def _dump_error(error: MajordomoError, redact: Callable[[str], str]) -> dict[str, Any]:
    made: dict[str, Any] = {"kind": type(error).__name__, "code": error.code}
    made |= mapped({"message": error.message, "details": error.details}, redact)
    if isinstance(error, errors.DeadlineExceededError):
        made["phase"] = error.phase
    if error.retryable is not type(error).retryable:
        made["retryable"] = error.retryable
    return made


def _load_error(kept: Mapping[str, Any]) -> MajordomoError:
    kind = getattr(errors, str(kept["kind"]), None)
    if not (isinstance(kind, type) and issubclass(kind, MajordomoError)):
        raise RecordingError(f"{kept['kind']!r} is no kind of error")
    more = {name: kept[name] for name in ("phase", "retryable") if name in kept}
    made: MajordomoError = kind(kept["message"], code=kept["code"], details=kept["details"], **more)
    return made
