"""Keys: carried sealed, so that no repr, pickle, log line or traceback with locals shows one."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from urllib.parse import quote

HIDDEN = "***"


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


def seal(value: str | Secret | None) -> Secret | None:
    """`value` as a Secret; None and "" are no key."""
    if isinstance(value, Secret) or value is None:
        return value
    return Secret(value) if value else None


class Redactor:
    """Removes secrets from text that came from outside: as they are, percent-encoded, and in base64."""

    def __init__(self, secrets: Iterable[Secret | None]) -> None:
        shapes: set[str] = set()
        for secret in secrets:
            # Shorter ones are ordinary text; replacing them would only garble messages
            if secret is not None and len(value := secret.reveal()) >= 4:
                raw = value.encode("utf-8", "replace")
                if len(password := value.partition(":")[2]) >= 4:  # "user:password"
                    shapes.add(password)
                if len(token := value.rpartition(" ")[2]) >= 8:  # a header's "Bearer token"
                    shapes |= {token, base64.b64encode(token.encode("utf-8", "replace")).decode()}
                shapes |= {
                    value,
                    quote(value, safe="", errors="replace"),
                    base64.b64encode(raw).decode(),
                    base64.urlsafe_b64encode(raw).decode(),
                }
                shapes |= {base64.b64encode(b"majordomo:" + raw).decode()}
        self._shapes = sorted(shapes, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for shape in self._shapes:
            text = text.replace(shape, HIDDEN)
        return text
