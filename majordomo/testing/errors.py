"""What the kit raises when the test, not the program's backend, is wrong. None is retryable, so no flow repeats or hides them."""

from __future__ import annotations

from typing import Any

from majordomo.errors import ConfigurationError


class ScriptError(ConfigurationError):
    """A script is over (code SCRIPT_EXHAUSTED), or holds what is no answer (code BAD_SCRIPT)."""

    default_code = "BAD_SCRIPT"


class RecordingError(ConfigurationError):
    """A recording cannot be read, or what was to be recorded must not be."""

    default_code = "BAD_RECORDING"


class RecordingMissingError(RecordingError):
    """A request that was not recorded. `difference` shows, as a unified diff of at most 60 lines, how the nearest recorded one differs."""

    default_code = "NOT_RECORDED"

    def __init__(self, message: str, *, difference: str = "", **rest: Any) -> None:
        super().__init__(message, **rest)
        self.difference = difference

    def __str__(self) -> str:
        return f"{self.message}\n{self.difference}" if self.difference else self.message


class NetworkForbiddenError(ConfigurationError):
    """Something wanted to reach the network inside `no_network()`. `host` and `port` (None where only a name was looked up) say what.

    It is no OSError, so that no HTTP library takes it for an unreachable server and tries again.
    """

    default_code = "NETWORK_FORBIDDEN"

    def __init__(
        self, message: str, *, host: str = "", port: int | None = None, **rest: Any
    ) -> None:
        super().__init__(message, **rest)
        self.host = host
        self.port = port
