"""Errors of a run: the failed stage, its input and advice, and the failures of storage."""

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

Stage = Literal["classify", "plan", "moderate", "generate", "finish", "derive", "store"]
# Characters of a stage's input that an error keeps.
MAX_INPUT_CHARACTERS = 500
_RULES_USED = "prompts written by rules were used"
_HELP = {
    "GPU_OOM": (
        "generate fewer pixels or fewer images at once, or unload other models from the GPU"
    ),
    "LLM_TIMEOUT": (f"give the assistant more time or use a smaller chat model; {_RULES_USED}"),
    "LLM_REFUSED": (f"word the brief differently or use another chat model; {_RULES_USED}"),
    "LLM_INVALID_OUTPUT": f"use a chat model that follows a JSON schema; {_RULES_USED}",
    "LLM_FAILED": f"check that the chat model can be reached; {_RULES_USED}",
    "CONTENT_REFUSED": (
        "word the brief differently: this content is not generated or not delivered"
    ),
    "MODERATION_FAILED": (
        "check that the moderator works: content without a verdict is not delivered"
    ),
    "BAD_IMAGE": (
        "the image cannot be decoded, or the recipe does not fit it: try the recipe on another"
        " image"
    ),
    "IMAGE_TOO_LARGE": "generate fewer pixels or raise the limits",
    "NOT_AN_IMAGE": (
        "the backend returned something other than PNG, JPEG or WebP: look at its log"
    ),
    "STORAGE_FULL": "free disk space, raise the quota or let old jobs expire sooner",
    "STORAGE_READ_ONLY": "choose a folder that can be written to",
    "DEADLINE_EXCEEDED": "allow more time (timeout=) or generate with fewer steps or pixels",
    "CONNECTION_FAILED": "check that the backend runs and that its address is right",
    "AUTHENTICATION": "give the provider a key that it accepts",
    "RATE_LIMITED": "wait, or generate fewer images at once",
    "OVERLOADED": "wait until the backend has capacity, or generate fewer images at once",
    "NO_IMAGE": "the backend answered without an image: try again or use another model",
}
_STAGE_HELP = {
    "classify": "pass a brief with text within the limit",
    "plan": "set fewer or simpler settings, or leave them to the rules",
    "moderate": "check that the moderator works",
    "generate": "try again, with other settings or another model",
    "finish": "try the recipe on another image",
    "derive": "the image itself is intact: derive from it again",
    "store": "check that the folder can be written to",
}


def with_stage(
    error: Exception, stage: Stage, stage_input: str = "", **details: Any
) -> MajordomoError:
    """Return `error` as a MajordomoError whose `details` have stage, input and help.

    An OSError of the stage "store" becomes a StorageError; any other exception that is not a
    MajordomoError becomes a BackendError (STAGE_FAILED). The original stays chained as the cause.
    Details that are already set are kept.
    """
    described = error if isinstance(error, MajordomoError) else _converted(error, stage)
    if (
        stage in ("finish", "derive")
        and isinstance(described, InvalidRequestError)
        and described.code == "NOT_AN_IMAGE"
    ):
        described.code = "BAD_IMAGE"
    described.details.setdefault("stage", stage)
    if stage_input:
        described.details.setdefault("input", plain_text(stage_input, MAX_INPUT_CHARACTERS))
    described.details.setdefault("help", _HELP.get(described.code) or _STAGE_HELP[stage])
    for name, value in details.items():
        described.details.setdefault(name, value)
    return described


def _converted(error: Exception, stage: Stage) -> MajordomoError:
    converted: MajordomoError
    if isinstance(error, OSError) and stage == "store":
        converted = storage_error(error)
    else:
        converted = BackendError(
            f"{type(error).__name__}: {error}", code="STAGE_FAILED", retryable=False
        )
    converted.__cause__ = error
    return converted


_FULL = (errno.ENOSPC, errno.EDQUOT)
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


def storage_error(error: OSError) -> StorageError:
    """Convert a file system's error to a StorageError with a code for its errno."""
    if error.errno in _FULL:
        code, problem = "STORAGE_FULL", "there is no space left"
    elif error.errno in _READ_ONLY:
        code, problem = "STORAGE_READ_ONLY", "the folder cannot be written to"
    else:
        code, problem = "STORAGE_FAILED", "a file operation failed"
    return StorageError(f"{problem}: {error.strerror or type(error).__name__}", code=code)


def chat_model_failure(error: MajordomoError, brief: str) -> MajordomoError:
    """Return why a chat model's reply was not used, with `error` chained as the cause.

    The code is LLM_TIMEOUT, LLM_REFUSED, LLM_INVALID_OUTPUT or LLM_FAILED.
    """
    match error:
        case DeadlineExceededError():
            code = "LLM_TIMEOUT"
        case ContentRefusedError():
            code = "LLM_REFUSED"
        case MajordomoError(code="BAD_OUTPUT"):
            code = "LLM_INVALID_OUTPUT"
        case _:
            code = "LLM_FAILED"
    failure = BackendError(
        f"no usable reply: {error.message}", code=code, provider=error.provider, model=error.model
    )
    failure.details["cause"] = error.to_dict()
    failure.__cause__ = error
    return with_stage(failure, "plan", brief)


def error_from_dict(values: Mapping[str, Any]) -> MajordomoError:
    """Create an error from the values of its `to_dict`.

    Its class is the base class; `code` and `details` are those of the original.
    """
    details = dict(values["details"])
    attributes = {
        name: details.pop(name, None) for name in ("provider", "model", "status", "retry_after")
    }
    return MajordomoError(
        str(values["error"]), code=str(values["code"]), details=details, **attributes
    )
