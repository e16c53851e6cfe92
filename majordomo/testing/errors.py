"""Errors of the testing kit: the test is wrong, not the backend.

None is retryable, so no retry or fallback hides them.
"""

from __future__ import annotations

from typing import Any

from majordomo.errors import ConfigurationError


class ScriptError(ConfigurationError):
    """A script is wrong.

    The code is SCRIPT_EXHAUSTED when all answers are used, PAUSE_NOT_REACHED when the script did
    not reach a pause in time, and BAD_SCRIPT when the script contains something that is not an
    answer.
    """

    default_code = "BAD_SCRIPT"


class RecordingError(ConfigurationError):
    """A recording cannot be read or written.

    The code is SECRET_IN_IMAGE when an image contains a secret, and BAD_RECORDING otherwise.
    """

    default_code = "BAD_RECORDING"


class RecordingMissingError(RecordingError):
    """A request has no recorded response.

    The code is USED_UP when all recorded responses to the request are used, and NOT_RECORDED
    otherwise.

    Attributes:
        difference: A unified diff, of at most 60 lines, from the most similar recorded request.
            Empty when there is none.
    """

    default_code = "NOT_RECORDED"

    def __init__(self, message: str, *, difference: str = "", **rest: Any) -> None:
        super().__init__(message, **rest)
        self.difference = difference

    def __str__(self) -> str:
        return f"{self.message}\n{self.difference}" if self.difference else self.message


class NetworkForbiddenError(ConfigurationError):
    """Network access was attempted inside `no_network()`.

    This is not an `OSError`, so that no HTTP library treats it as an unreachable server and
    retries.

    Attributes:
        host: Host name or IP address.
        port: Port; None when only the name was looked up.
    """

    default_code = "NETWORK_FORBIDDEN"

    def __init__(
        self, message: str, *, host: str = "", port: int | None = None, **rest: Any
    ) -> None:
        super().__init__(message, **rest)
        self.host = host
        self.port = port
