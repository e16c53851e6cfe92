"""Failures with an address: at which stage, what was asked, what may help."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any, Literal

from majordomo.errors import (
    BackendError,
    ContentRefusedError,
    DeadlineExceededError,
    InvalidRequestError,
    MajordomoError,
    StorageError,
    plain_text,
)

Stage = Literal["classify", "plan", "moderate", "paint", "finish", "derive", "store"]
ASKED = 500  # characters of what was asked that an error keeps
_HELP = {
    "GPU_OOM": "draw fewer pixels or fewer images at once, or free the GPU of other models",
    "LLM_TIMEOUT": "give the assistant more time, or a smaller chat model; the rules' own prompts were used",
    "LLM_REFUSED": "word the brief differently, or ask another chat model; the rules' own prompts were used",
    "LLM_INVALID_OUTPUT": "ask a chat model that keeps to a JSON schema; the rules' own prompts were used",
    "LLM_FAILED": "see whether the chat model can be reached; the rules' own prompts were used",
    "CONTENT_REFUSED": "word the brief differently: this content is not drawn or not delivered",
    "MODERATION_FAILED": "see whether the moderator works: what it cannot judge is not delivered",
    "BAD_IMAGE": "the image cannot be decoded, or the recipe does not fit it: try the recipe on another image",
    "IMAGE_TOO_LARGE": "draw fewer pixels, or raise the limits",
    "NOT_AN_IMAGE": "the backend gave something else than PNG, JPEG or WebP: look at its log",
    "STORAGE_FULL": "make room, raise the quota, or let old jobs expire sooner",
    "STORAGE_READ_ONLY": "choose a folder that can be written to",
    "DEADLINE_EXCEEDED": "give more time (timeout=), or draw fewer steps or pixels",
    "CONNECTION_FAILED": "see whether the backend runs and its address is right",
    "AUTHENTICATION": "give the provider a key that it takes",
    "RATE_LIMITED": "wait, or draw fewer images at once",
    "OVERLOADED": "wait until the backend has room, or draw fewer images at once",
    "NO_IMAGE": "the backend answered without an image: try again, or another model",
}
_BY_STAGE = {
    "classify": "give a brief of words within the limit",
    "plan": "give fewer or simpler settings, or leave them to the rules",
    "moderate": "see whether the moderator works",
    "paint": "try again, with other settings or another model",
    "finish": "try the recipe on another image",
    "derive": "the image itself is whole: derive again from it",
    "store": "see whether the folder can be written to",
}


def with_stage(error: Exception, stage: Stage, asked: str = "", **about: Any) -> MajordomoError:
    """`error` as one of the library's, with `details` stage, asked and help, and what else is `about` it; what stands there already stays.

    A file's error becomes StorageError; what is none of ours becomes BackendError (STAGE_FAILED), with its cause.
    """
    told = error if isinstance(error, MajordomoError) else _translated(error, stage)
    if (
        stage in ("finish", "derive")
        and isinstance(told, InvalidRequestError)
        and told.code == "NOT_AN_IMAGE"
    ):
        told.code = "BAD_IMAGE"
    told.details.setdefault("stage", stage)
    if asked:
        told.details.setdefault("asked", plain_text(asked, ASKED))
    told.details.setdefault("help", _HELP.get(told.code) or _BY_STAGE[stage])
    for name, value in about.items():
        told.details.setdefault(name, value)
    return told


def _translated(error: Exception, stage: Stage) -> MajordomoError:
    told: MajordomoError
    if isinstance(error, OSError) and stage == "store":
        told = storage_error(error)
    else:
        told = BackendError(
            f"{type(error).__name__}: {error}", code="STAGE_FAILED", retryable=False
        )
    told.__cause__ = error
    return told


_FULL = (errno.ENOSPC, errno.EDQUOT)
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


def storage_error(error: OSError) -> StorageError:
    """What a file system's own error means."""
    code = (
        "STORAGE_FULL"
        if error.errno in _FULL
        else "STORAGE_READ_ONLY"
        if error.errno in _READ_ONLY
        else "STORAGE_FAILED"
    )
    said = {
        "STORAGE_FULL": "there is no room left",
        "STORAGE_READ_ONLY": "the folder cannot be written to",
    }.get(code, "a file failed")
    return StorageError(f"{said}: {error.strerror or type(error).__name__}", code=code)


def model_failure(error: MajordomoError, asked: str) -> MajordomoError:
    """Why a chat model's answer was not used: LLM_TIMEOUT, LLM_REFUSED, LLM_INVALID_OUTPUT or LLM_FAILED, with the cause chained."""
    match error:
        case DeadlineExceededError():
            code = "LLM_TIMEOUT"
        case ContentRefusedError():
            code = "LLM_REFUSED"
        case MajordomoError(code="BAD_OUTPUT"):
            code = "LLM_INVALID_OUTPUT"
        case _:
            code = "LLM_FAILED"
    told = BackendError(
        f"no usable answer: {error.message}", code=code, provider=error.provider, model=error.model
    )
    told.details["cause"] = error.to_dict()
    told.__cause__ = error
    return with_stage(told, "plan", asked)


def reported(values: Mapping[str, Any]) -> MajordomoError:
    """An error that was saved as its `to_dict`. Its class is the base: `code` and `details` say what it was."""
    details = dict(values["details"])
    known = {
        name: details.pop(name, None) for name in ("provider", "model", "status", "retry_after")
    }
    return MajordomoError(str(values["error"]), code=str(values["code"]), details=details, **known)
