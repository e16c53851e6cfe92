"""Secrets, wrapped so that no repr, pickle, log line or traceback with locals shows them."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote

# What replaces a secret.
REDACTED = "***"
# What marks the end of a truncated text.
TRUNCATION_MARK = "…"


class Secret:
    """A secret string, for example an API key.

    Only `reveal()` returns the value. A secret cannot be pickled, and its repr hides the value.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value."""
        return self._value

    def fits_header(self) -> bool:
        """Return whether an HTTP header can carry the value.

        That is the case for printable ASCII without surrounding spaces.
        """
        value = self._value
        return bool(value) and value.isascii() and value.isprintable() and value == value.strip()

    def basic(self) -> Secret:
        """Return the Authorization header value for "user:password" (RFC 7617)."""
        return Secret("Basic " + base64.b64encode(self._value.encode()).decode())

    def __repr__(self) -> str:
        return f"Secret({REDACTED})"

    def __reduce__(self) -> str:
        raise TypeError("a Secret cannot be pickled; pass the key to the new process another way")


def as_secret(value: str | Secret | None) -> Secret | None:
    """Return `value` as a Secret; None for None and ""."""
    if isinstance(value, Secret) or value is None:
        return value
    return Secret(value) if value else None


class Redactor:
    """A function that replaces secrets in text with `REDACTED`.

    It finds secrets as they are, percent-encoded and in base64, and also the beginning of a secret
    in front of "…", which marks truncated text. With `inside_base64`, it also finds a
    secret in the base64 of a longer text; in a recording such base64 may be an image, so it is
    switched off there.
    """

    def __init__(self, secrets: Iterable[Secret | None], *, inside_base64: bool = True) -> None:
        forms: set[str] = set()
        for secret in secrets:
            # Shorter secrets are ordinary text; replacing them would only garble messages.
            if secret is not None and len(value := secret.reveal()) >= 4:
                forms |= _encoded_forms(value, inside_base64)
                # The password of "user:password".
                if len(password := value.partition(":")[2]) >= 4:
                    forms.add(password)
                # The token of a header value such as "Bearer token".
                if len(token := value.rpartition(" ")[2]) >= 8:
                    forms |= _encoded_forms(token, inside_base64)
        self._forms = sorted(forms, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """Return `text` with the secrets replaced."""
        for form in self._forms:
            text = text.replace(form, REDACTED)
        return self._redact_beginnings(text) if TRUNCATION_MARK in text else text

    def _redact_beginnings(self, text: str) -> str:
        sections = text.split(TRUNCATION_MARK)
        for index, section in enumerate(sections[:-1]):
            length = max((_beginning_at_end(section, form) for form in self._forms), default=0)
            if length:
                sections[index] = section[:-length] + REDACTED
        return TRUNCATION_MARK.join(sections)


def _encoded_forms(value: str, inside_base64: bool) -> set[str]:
    """Return how a secret appears in text: as it is, in a URL, and in base64.

    With `inside_base64`, and from 8 bytes on, the base64 forms include those within a longer text.
    """
    raw = value.encode("utf-8", "replace")
    forms = {
        value,
        base64.b64encode(raw).decode(),
        base64.urlsafe_b64encode(raw).decode(),
        base64.b64encode(b"majordomo:" + raw).decode(),
    }
    if "\\" in value:
        # The form in JSON, and in the repr of bytes.
        forms.add(value.replace("\\", "\\\\"))
    for escaped in (quote(value, safe="", errors="replace"), quote(value, errors="replace")):
        forms |= {escaped, _ESCAPE.sub(lambda match: match[0].lower(), escaped)}
    if inside_base64 and len(raw) >= 8:
        for before in range(3):
            # The first and last digits depend on the neighboring bytes, so leave them out.
            digits = base64.b64encode(bytes(before) + raw)[
                (0, 2, 3)[before] : (len(raw) + before) * 8 // 6
            ].decode()
            forms |= {digits, digits.translate(_URLSAFE)}
    return forms


def _beginning_at_end(text: str, form: str) -> int:
    """Return how many characters at the end of `text` are a beginning of `form`.

    Fewer than 6 count as 0: so few characters reveal nothing.
    """
    return next(
        (
            length
            for length in range(min(len(text), len(form) - 1), 5, -1)
            if text.endswith(form[:length])
        ),
        0,
    )


def redact_details(value: Any, redact: Callable[[str], str]) -> Any:
    """Return a plain JSON value with `redact` applied to every str in it, keys included."""
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
