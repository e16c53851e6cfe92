"""Remove API keys from the log records of the HTTP libraries.

At DEBUG they log the head of each response, in which a backend may quote a key.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from weakref import WeakValueDictionary

_LIBRARIES = ("httpcore", "httpcore2", "httpx", "httpx2")
_SUBLOGGERS = ("", ".connection", ".http11", ".http2", ".proxy", ".socks")


def redact_in_logs(redact: Callable[[str], str]) -> None:
    """Apply `redact` to what the HTTP libraries log, for as long as `redact` is referenced.

    It costs nothing while they log nothing.
    """
    if not _redactors:
        for library in _LIBRARIES:
            for name in _SUBLOGGERS:
                # addFilter is idempotent.
                logging.getLogger(library + name).addFilter(_filter)
    _redactors[id(redact)] = redact


class _Filter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        try:
            message = redacted = record.getMessage()
        except (TypeError, ValueError):
            # Let logging report the malformed record.
            return True
        # valuerefs() takes one step: other threads may add redactors meanwhile.
        for reference in _redactors.valuerefs():
            if (redact := reference()) is not None:
                redacted = redact(redacted)
        if redacted != message:
            record.msg, record.args = redacted, None
        return True


_redactors: WeakValueDictionary[int, Callable[[str], str]] = WeakValueDictionary()
_filter = _Filter()
