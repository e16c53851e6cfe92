"""An observer that logs one record per call."""

from __future__ import annotations

import logging
from typing import Any

from majordomo.errors import MajordomoError
from majordomo.observability.observer import Call, CallResult, Observer, RetryAttempt

LOGGER = "majordomo.calls"


class LoggingObserver(Observer):
    """An observer that logs one record when a call ends, with the standard library's logging.

    The message is for people. Programs read the attributes of the record; each is set only where it
    is known:

    * call_id, call_operation, call_provider, call_model, call_user_id, call_address, call_streamed
    * call_seconds: seconds from the start to the end of the call
    * call_outcome: "finished", "failed" or "cancelled"
    * call_retries: number of repeated attempts
    * call_input_tokens, call_output_tokens, call_images, call_finish_reason, call_warnings
    * call_error: the code of the error
    * call_status: the HTTP status of the error

    Args:
        logger: The logger; `majordomo.calls` by default.
        finished: Level for calls that finish. 0 logs none of them. Default: INFO.
        failed: Level for calls that fail. 0 logs none of them. Default: WARNING.
        cancelled: Level for calls that are cancelled. 0 logs none of them. Default: INFO.
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
        """Count the repeated attempt."""
        self._retries[call.id] = self._retries.get(call.id, 0) + 1

    def on_success(self, call: Call, outcome: CallResult) -> None:
        """Log a finished call with its tokens and images."""
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
        attributes = {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "images": outcome.images or None,
            "finish_reason": outcome.finish_reason or None,
            "warnings": outcome.warnings or None,
        }
        self._log(call, "finished", ", ".join([*images, *tokens]), attributes)

    def on_error(self, call: Call, error: MajordomoError) -> None:
        """Log a failed call with its error."""
        self._log(
            call,
            "failed",
            f"{error.code}: {error.message}",
            {"error": error.code, "status": error.status},
        )

    def on_cancel(self, call: Call) -> None:
        """Log a cancelled call."""
        self._log(call, "cancelled", "", {})

    def _log(self, call: Call, outcome: str, summary: str, attributes: dict[str, Any]) -> None:
        retries = self._retries.pop(call.id, 0)
        level = self._levels[outcome]
        if not level or not self._logger.isEnabledFor(level):
            return
        seconds = call.elapsed()
        values = {
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
            **attributes,
        }
        extra = {f"call_{name}": value for name, value in values.items() if value is not None}
        name = f"{call.operation} {call.provider}/{call.model}"
        self._logger.log(
            level,
            "%s %s in %.2f s%s",
            name,
            outcome,
            seconds,
            f" ({summary})" if summary else "",
            extra=extra,
        )
