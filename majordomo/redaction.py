"""Keys: carried sealed, so that no repr, pickle, log line or traceback with locals shows one."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote

HIDDEN = "***"
CUT = "…"  # where a text was cut off


class Secret:
    """A key. Only `reveal()` gives it out; it cannot be pickled or copied into text."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def fits_header(self) -> bool:
        """Whether an HTTP header can carry it: printable ASCII without space around it."""
        value = self._value
        return bool(value) and value.isascii() and value.isprintable() and value == value.strip()

    def basic(self) -> Secret:
        """The Authorization header for "user:password" (RFC 7617)."""
        return Secret("Basic " + base64.b64encode(self._value.encode()).decode())

    def __repr__(self) -> str:
        return f"Secret({HIDDEN})"

    def __reduce__(self) -> str:
        raise TypeError("a Secret is not pickled")


def as_secret(value: str | Secret | None) -> Secret | None:
    """`value` as a Secret; None and "" are no key."""
    if isinstance(value, Secret) or value is None:
        return value
    return Secret(value) if value else None


class Redactor:
    """Removes secrets from text that came from outside: as they are, percent-encoded, and in base64; also the beginning of one that was
    cut off, where "…" says so. `within`: in the base64 of something longer too, which in a recording may be an image."""

    def __init__(self, secrets: Iterable[Secret | None], *, within: bool = True) -> None:
        shapes: set[str] = set()
        for secret in secrets:
            # Shorter ones are ordinary text; replacing them would only garble messages
            if secret is not None and len(value := secret.reveal()) >= 4:
                shapes |= _shapes(value, within)
                if len(password := value.partition(":")[2]) >= 4:  # "user:password"
                    shapes.add(password)
                if len(token := value.rpartition(" ")[2]) >= 8:  # a header's "Bearer token"
                    shapes |= _shapes(token, within)
        self._shapes = sorted(shapes, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for shape in self._shapes:
            text = text.replace(shape, HIDDEN)
        return self._without_beginnings(text) if CUT in text else text

    def _without_beginnings(self, text: str) -> str:
        pieces = text.split(CUT)
        for index, piece in enumerate(pieces[:-1]):
            shown = max((_shown(piece, shape) for shape in self._shapes), default=0)
            if shown:
                pieces[index] = piece[:-shown] + HIDDEN
        return CUT.join(pieces)


def _shapes(value: str, within: bool) -> set[str]:
    """How a text looks as it is, in a URL, and in base64, alone or (from 8 characters on) within something longer."""
    raw = value.encode("utf-8", "replace")
    shapes = {
        value,
        base64.b64encode(raw).decode(),
        base64.urlsafe_b64encode(raw).decode(),
        base64.b64encode(b"majordomo:" + raw).decode(),
    }
    if "\\" in value:
        shapes.add(value.replace("\\", "\\\\"))  # as in JSON, and where Python shows bytes
    for escaped in (quote(value, safe="", errors="replace"), quote(value, errors="replace")):
        shapes |= {escaped, _ESCAPE.sub(lambda found: found[0].lower(), escaped)}
    if within and len(raw) >= 8:
        for before in range(3):  # its first and last digits there depend on the neighbors
            digits = base64.b64encode(bytes(before) + raw)[
                (0, 2, 3)[before] : (len(raw) + before) * 8 // 6
            ].decode()
            shapes |= {digits, digits.translate(_URLSAFE)}
    return shapes


def _shown(piece: str, shape: str) -> int:
    """How many of the last characters of `piece` are the beginning of `shape`; fewer than 6 tell nothing."""
    return next(
        (
            length
            for length in range(min(len(piece), len(shape) - 1), 5, -1)
            if piece.endswith(shape[:length])
        ),
        0,
    )


def redact_details(value: Any, redact: Callable[[str], str]) -> Any:
    """A plain JSON value with `hide` applied to every text within it, keys included."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {
            redact(key) if isinstance(key, str) else key: redact_details(item, redact)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [redact_details(item, redact) for item in value]
    return value


_ESCAPE = re.compile("%[0-9A-F]{2}")
_URLSAFE = str.maketrans("+/", "-_")
