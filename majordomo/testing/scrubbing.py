"""Removal of secrets from recordings."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from majordomo.redaction import REDACTED, Redactor, Secret, as_secret

# Keys of well-known services, recognized by their shape. This also removes keys of other people
# that were pasted into a prompt or quoted in a response.
_KEY_SHAPES = re.compile(
    r"(?<![A-Za-z0-9_-])(?:sk-[A-Za-z0-9_-]{20,}|AIza[A-Za-z0-9_-]{35}|hf_[A-Za-z0-9]{30,}"
    r"|gsk_[A-Za-z0-9]{30,}|xai-[A-Za-z0-9]{30,}|r8_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{30,}"
    r"|AKIA[A-Z0-9]{16}|eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,})"
    r"(?![A-Za-z0-9_-])|(?<=Bearer )[A-Za-z0-9._~+/-]{16,}=*"
)
RECORDED_HEADERS = frozenset({"content-type", "retry-after", "retry-after-ms", "x-should-retry"})


def make_redactor(
    secrets: Iterable[str | Secret], then: Callable[[str], str] = str
) -> Callable[[str], str]:
    """Return a function that removes secrets from a text.

    Args:
        secrets: Values to remove, also in their JSON-escaped form.
        then: A further redactor to apply.

    Returns:
        A function that also removes anything with the shape of a well-known service's key.
    """
    all_secrets = [secret for secret in map(as_secret, secrets) if secret is not None]
    all_secrets += [
        Secret(escaped)
        for secret in all_secrets
        if (escaped := json.dumps(secret.reveal())[1:-1]) != secret.reveal()
    ]
    redactor = Redactor(all_secrets, inside_base64=False)
    return lambda text: _KEY_SHAPES.sub(REDACTED, then(redactor(text)))


def as_tuple(values: str | Secret | Iterable[Any]) -> tuple[Any, ...]:
    """Return one value or several values as a tuple."""
    return (values,) if isinstance(values, (str, Secret)) else tuple(values)


def filter_headers(
    headers: Mapping[str, str], extra_names: frozenset[str], redact: Callable[[str], str]
) -> dict[str, str]:
    """Return the response headers that affect a call, redacted.

    All others are random, or identify an account.
    """
    return {
        name: redact(value)
        for name, value in headers.items()
        if name in RECORDED_HEADERS or name in extra_names
    }
