"""What never gets into a recording."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from majordomo.redaction import HIDDEN, Redactor, Secret, as_secret

# Keys of services by the shape they all have; of other people's too, pasted into a prompt or quoted in an answer
_SHAPES = re.compile(
    r"(?<![A-Za-z0-9_-])(?:sk-[A-Za-z0-9_-]{20,}|AIza[A-Za-z0-9_-]{35}|hf_[A-Za-z0-9]{30,}|gsk_[A-Za-z0-9]{30,}|xai-[A-Za-z0-9]{30,}"
    r"|r8_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{30,}|AKIA[A-Z0-9]{16}|eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,})"
    r"(?![A-Za-z0-9_-])|(?<=Bearer )[A-Za-z0-9._~+/-]{16,}=*"
)
KEPT_HEADERS = frozenset({"content-type", "retry-after", "retry-after-ms", "x-should-retry"})


def make_redactor(
    secrets: Iterable[str | Secret], more: Callable[[str], str] = str
) -> Callable[[str], str]:
    """What takes these secrets, whatever `more` knows, and anything with the shape of a known key out of a text."""
    sealed = [secret for secret in map(as_secret, secrets) if secret is not None]
    sealed += [
        Secret(escaped)
        for secret in sealed
        if (escaped := json.dumps(secret.reveal())[1:-1]) != secret.reveal()
    ]
    ours = Redactor(sealed, within=False)
    return lambda text: _SHAPES.sub(HIDDEN, more(ours(text)))


def several(given: str | Secret | Iterable[Any]) -> tuple[Any, ...]:
    """One, or many, as a tuple."""
    return (given,) if isinstance(given, (str, Secret)) else tuple(given)


def kept_headers(
    headers: Mapping[str, str], more: frozenset[str], redact: Callable[[str], str]
) -> dict[str, str]:
    """The headers of an answer that decide something; all others are chance, or somebody's account."""
    return {
        name: redact(value)
        for name, value in headers.items()
        if name in KEPT_HEADERS or name in more
    }
