"""One line in the log for each call."""

from __future__ import annotations

import logging
from typing import Any

from majordomo.errors import MajordomoError
from majordomo.observability.observer import Call, CallResult, Observer, RetryAttempt

LOGGER = "majordomo.calls"


class LoggingObserver(Observer):
    """Logs one record when a call ends, through the standard library's logging.

    The message is for people. What programs read stands in the record's attributes, each of them only where it is known: call_id,
    call_operation, call_provider, call_model, call_user_id, call_address, call_streamed, call_seconds, call_outcome ("finished", "failed",
    "cancelled"), call_retries, call_input_tokens, call_output_tokens, call_images, call_finish_reason, call_warnings, call_error (a code)
    and call_status. Levels: `finished` (INFO), `failed` (WARNING), `cancelled` (INFO); 0 logs nothing of that kind.
    """

    def __init__(
        self,
        logger: logging.Logger | None = None,
        *,
        finished: int = logging.INFO,
        failed: int = logging.WARNING,
        cancelled: int = logging.INFO,
    ) -> None:
        self._logger = logger or logging.getLogger(LOGGER)
        self._levels = {"finished": finished, "failed": failed, "cancelled": cancelled}
        self._retries: dict[str, int] = {}

    def on_retry(self, call: Call, attempt: RetryAttempt) -> None:
        self._retries[call.id] = self._retries.get(call.id, 0) + 1

    def on_success(self, call: Call, outcome: CallResult) -> None:
        usage = outcome.usage
        tokens = [
            f"{count} {name}"
            for name, count in (("in", usage.input_tokens), ("out", usage.output_tokens))
            if count is not None
        ]
        images = (
            [f"{outcome.images} image{'s' if outcome.images != 1 else ''}"]
            if outcome.images
            else []
        )
        told = {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "images": outcome.images or None,
            "finish_reason": outcome.finish_reason or None,
            "warnings": outcome.warnings or None,
        }
        self._log(call, "finished", ", ".join([*images, *tokens]), told)

    def on_error(self, call: Call, error: MajordomoError) -> None:
        self._log(
            call,
            "failed",
            f"{error.code}: {error.message}",
            {"error": error.code, "status": error.status},
        )

    def on_cancel(self, call: Call) -> None:
        self._log(call, "cancelled", "", {})

    def _log(self, call: Call, outcome: str, words: str, told: dict[str, Any]) -> None:
        retries = self._retries.pop(call.id, 0)
        level = self._levels[outcome]
        if not level or not self._logger.isEnabledFor(level):
            return
        seconds = call.elapsed()
        known = {
            "id": call.id,
            "operation": call.operation,
            "provider": call.provider,
            "model": call.model,
            "user_id": call.user_id or None,
            "address": call.address or None,
            "streamed": call.streamed,
            "seconds": seconds,
            "outcome": outcome,
            "retries": retries or None,
            **told,
        }
        extra = {f"call_{name}": value for name, value in known.items() if value is not None}
        name = f"{call.operation} {call.provider}/{call.model}"
        self._logger.log(
            level,
            "%s %s in %.2f s%s",
            name,
            outcome,
            seconds,
            f" ({words})" if words else "",
            extra=extra,
        )
