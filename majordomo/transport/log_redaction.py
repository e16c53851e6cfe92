"""The HTTP libraries' own logs: at DEBUG they show the head of each answer, in which a backend may quote a key."""

from __future__ import annotations

import logging
from collections.abc import Callable
from weakref import WeakValueDictionary

_LIBRARIES = ("httpcore", "httpcore2", "httpx", "httpx2")
_PARTS = ("", ".connection", ".http11", ".http2", ".proxy", ".socks")


def redact_in_logs(redact: Callable[[str], str]) -> None:
    """Have `hide` applied, for as long as it lives, to what the HTTP libraries log. It costs nothing while they log nothing."""
    if not _hiding:
        for library in _LIBRARIES:
            for part in _PARTS:
                logging.getLogger(library + part).addFilter(_filter)  # again is as once
    _hiding[id(redact)] = redact


class _Filter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        try:
            told = shown = record.getMessage()
        except (TypeError, ValueError):  # not ours to mend: logging tells of it
            return True
        for alive in _hiding.valuerefs():  # one step: other threads may add to it meanwhile
            if (redact := alive()) is not None:
                shown = redact(shown)
        if shown != told:
            record.msg, record.args = shown, None
        return True


_hiding: WeakValueDictionary[int, Callable[[str], str]] = WeakValueDictionary()
_filter = _Filter()
