"""Parsing of model strings. No I/O and no look-ups.

    provider/model          ollama/gemma3
    provider:model          ollama:gemma3
    provider                offline
    ...?option=value        ollama/gemma3?temperature=0.2
    model URL               provider[+https]://[key@]host[:port]/model[?option=value]
    first,second            a chain: the second is called when the first fails

In a model URL the whole path after the host is the model id, which may contain `/` and `:`. The
option `base_path` sets the path of a server that is not at the root of its host; every other option
is a field of the request. The key is `user:password` for a backend that requires both. An option is
read as JSON if it is valid JSON, otherwise as text. A comma inside brackets or quotes does not
separate members. A model id that contains a comma or a `?` must be percent-encoded in a model URL.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from majordomo.errors import ConfigurationError
from majordomo.redaction import REDACTED, Secret, as_secret

MAX_CHARACTERS = 2000
_PROVIDER = re.compile(r"[a-z][a-z0-9_-]*")
_MODEL_URL = re.compile(r"([A-Za-z][A-Za-z0-9_-]*)(\+https?)?://(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ModelName:
    """A parsed model string."""

    provider: str
    """The canonical name of a kind of provider."""
    model: str = ""
    """The model id; "" for the provider's default."""
    base_url: str = ""
    """The base URL of the server from a model URL; "" for the provider's default."""
    key: Secret | None = None
    """The key from a model URL."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the request that the string sets."""
    written: str = field(default="", compare=False)
    """The provider as written in the string."""
    table: str = ""
    """The name of the configured provider; "" for none."""
    with_user: bool = field(default=False, compare=False)
    """Whether the key was written as user:password."""

    def __str__(self) -> str:
        """Return the model string with its key masked."""
        if not self.base_url:
            provider = self.table or self.provider
            return f"{provider}/{self.model}" if self.model else provider
        scheme, _, rest = self.base_url.partition("://")
        host = rest.partition("/")[0]
        secure = "+https" if scheme == "https" else ""
        key = f"{REDACTED}@" if self.key else ""
        return f"{self.provider}{secure}://{key}{host}/{self.model}"


def split(name: str) -> tuple[str, ...]:
    """Return the members of a chain written with commas; one member for any other string.

    Raises ConfigurationError for text that is not a model string.
    """
    if (
        not isinstance(name, str)
        or not name.strip()
        or not name.isprintable()
        or len(name) > MAX_CHARACTERS
    ):
        # The value is not shown: it may contain a key.
        raise ConfigurationError(
            f"a model string must be printable text of 1 to {MAX_CHARACTERS} characters, "
            "for example llamaswap/qwen3",
            details={"field": "model"},
        )
    members, start, depth, quoted = [], 0, 0, False
    for index, character in enumerate(name):
        if character == '"':
            quoted = not quoted
        elif not quoted:
            depth += (character in "[{") - (character in "]}")
            if character == "," and depth <= 0:
                members.append(name[start:index].strip())
                start = index + 1
    members.append(name[start:].strip())
    if not all(members):
        raise ConfigurationError(
            "a model string must not have an empty member between commas",
            details={"field": "model"},
        )
    return tuple(members)


def parse(name: str) -> ModelName:
    """Parse the model string of one model.

    Raises ConfigurationError for an invalid string and for a chain. The message never shows the
    whole string, which may contain a key.
    """
    members = split(name)
    if len(members) > 1:
        raise ConfigurationError(
            f"the model string must name one model; got a chain of {len(members)}",
            details={"field": "model"},
        )
    name = members[0]
    if model_url := _MODEL_URL.fullmatch(name):
        return _parse_model_url(model_url[1], model_url[2] == "+https", model_url[3])
    name, mark, query = name.partition("?")
    options = parse_options(query) if mark else {}
    separator = re.search(r"[/:]", name)
    provider, model = (
        (name[: separator.start()], name[separator.end() :]) if separator else (name, "")
    )
    if separator and not model:
        raise ConfigurationError(
            f"a model string must name a model after the separator; got {name!r}",
            details={"field": "model"},
        )
    return ModelName(canonical(provider), model, options=options, written=provider)


def canonical(provider: str) -> str:
    """Return a provider's canonical name: `llama-swap` and `LlamaSwap` become `llamaswap`."""
    name = provider.lower()
    if not _PROVIDER.fullmatch(name):
        # The value is not shown: it may contain a key.
        raise ConfigurationError(
            "a provider name must begin with a letter and contain only letters, digits, - and _",
            details={"field": "provider"},
        )
    return name.replace("-", "").replace("_", "")


def parse_options(query: str) -> dict[str, Any]:
    """Return the options in `steps=20&sampler=euler` as values.

    Raises ConfigurationError for text that is not name=value, and for a name that is set twice.
    """
    options: dict[str, Any] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        pairs = []
    if not pairs:
        raise ConfigurationError(
            "the options of a model string must be name=value, joined by &",
            details={"field": "model"},
        )
    for option, text in pairs:
        if option in options:
            raise ConfigurationError(
                f"the model string sets {option!r} twice; set it once", details={"field": "model"}
            )
        try:
            options[option] = json.loads(text)
        except (ValueError, RecursionError):
            options[option] = text
    return options


def _parse_model_url(written: str, secure: bool, rest: str) -> ModelName:
    provider = canonical(written)
    try:
        parts = urlsplit("//" + rest)
        port = parts.port
        host = parts.hostname
    except ValueError:
        host = None
    if not host:
        raise ConfigurationError(
            f"the model URL must name a host, as in {provider}://localhost:8080/model",
            details={"field": "model"},
        )
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    with_user = bool(user and password)
    key = as_secret(f"{user}:{password}" if with_user else user or password)
    options = parse_options(parts.query) if parts.query else {}
    base_path = str(options.pop("base_path", "")).strip("/")
    scheme = "https" if secure else "http"
    authority = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    base_url = f"{scheme}://{authority}{'/' + base_path if base_path else ''}"
    return ModelName(
        provider,
        unquote(parts.path.removeprefix("/")),
        base_url,
        key,
        options,
        written,
        with_user=with_user,
    )
