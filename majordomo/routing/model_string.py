"""Model strings, read without touching anything.

    provider/model          ollama/gemma3
    provider:model          ollama:gemma3
    provider                offline
    ...?option=value        ollama/gemma3?temperature=0.2
    DSN                     provider[+https]://[key@]host[:port]/model[?option=value]
    first,second            the next one is asked when one fails

In a DSN the whole path after the host is the model id (it may hold `/` and `:`); `base_path` names the path of a server below one;
every other option is a field of the request. The key is `user:password` for a backend that asks for both. Options are read as JSON where
they are JSON, else as text. A comma inside brackets or quotes separates nothing; a model id that holds one, or a `?`, is written
percent-encoded in a DSN.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from majordomo.errors import ConfigurationError
from majordomo.redaction import HIDDEN, Secret, as_secret

MAX_CHARACTERS = 2000  # characters of a string
_PROVIDER = re.compile(r"[a-z][a-z0-9_-]*")
_DSN = re.compile(r"([A-Za-z][A-Za-z0-9_-]*)(\+https?)?://(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ModelName:
    """A model string, taken apart. `base_url` is "" when the provider's own default is meant; `model` may be "" likewise.

    `provider` is the canonical name of a kind of provider, `written` what the string has in its place, and `table` the configured
    provider that is meant, "" for none. `with_user`: the key was written as user:password.
    """

    provider: str
    model: str = ""
    base_url: str = ""
    key: Secret | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    written: str = field(default="", compare=False)
    table: str = ""
    with_user: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        """The string again, its key masked."""
        if not self.base_url:
            provider = self.table or self.provider
            return f"{provider}/{self.model}" if self.model else provider
        scheme, _, rest = self.base_url.partition("://")
        host = rest.partition("/")[0]
        return f"{self.provider}{'+https' if scheme == 'https' else ''}://{HIDDEN + '@' if self.key else ''}{host}/{self.model}"


def split(name: str) -> tuple[str, ...]:
    """The members of a chain written with commas; one for any other string. Raises ConfigurationError for what is no model string."""
    if (
        not isinstance(name, str)
        or not name.strip()
        or not name.isprintable()
        or len(name) > MAX_CHARACTERS
    ):
        raise ConfigurationError(
            "a model string is text such as llamaswap/qwen3", details={"field": "model"}
        )
    pieces, begin, depth, quoted = [], 0, 0, False
    for index, character in enumerate(name):
        if character == '"':
            quoted = not quoted
        elif not quoted:
            depth += (character in "[{") - (character in "]}")
            if character == "," and depth <= 0:
                pieces.append(name[begin:index].strip())
                begin = index + 1
    pieces.append(name[begin:].strip())
    if not all(pieces):
        raise ConfigurationError(
            "a member between the commas of a model string is missing", details={"field": "model"}
        )
    return tuple(pieces)


def parse(name: str) -> ModelName:
    """Raises ConfigurationError for a string that names no model, and for several. Never shows the string: it may hold a key."""
    pieces = split(name)
    if len(pieces) > 1:
        raise ConfigurationError(
            "one model is wanted here, not a chain", details={"field": "model"}
        )
    name = pieces[0]
    if found := _DSN.fullmatch(name):
        return _dsn(found[1], found[2] == "+https", found[3])
    name, mark, query = name.partition("?")
    options = parse_options(query) if mark else {}
    cut = re.search(r"[/:]", name)
    provider, model = (name[: cut.start()], name[cut.end() :]) if cut else (name, "")
    if cut and not model:
        raise ConfigurationError(f"{name!r} names no model", details={"field": "model"})
    return ModelName(canonical(provider), model, options=options, written=provider)


def canonical(provider: str) -> str:
    """A provider's name as its file is called: `llama-swap` and `LlamaSwap` are `llamaswap`."""
    word = provider.lower()
    if not _PROVIDER.fullmatch(word):
        raise ConfigurationError(
            "a provider's name is letters and digits", details={"field": "provider"}
        )
    return word.replace("-", "").replace("_", "")


def parse_options(query: str) -> dict[str, Any]:
    """`steps=20&sampler=euler` as values. Raises ConfigurationError for what is not name=value, and for a name given twice."""
    options: dict[str, Any] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        pairs = []
    if not pairs:
        raise ConfigurationError(
            "the options of a model string are name=value, joined by &", details={"field": "model"}
        )
    for option, text in pairs:
        if option in options:
            raise ConfigurationError(
                f"the model string sets {option!r} twice", details={"field": "model"}
            )
        try:
            options[option] = json.loads(text)
        except (ValueError, RecursionError):
            options[option] = text
    return options


def _dsn(written: str, secure: bool, rest: str) -> ModelName:
    provider = canonical(written)
    try:
        parts = urlsplit("//" + rest)
        port = parts.port
        host = parts.hostname
    except ValueError:
        host = None
    if not host:
        raise ConfigurationError(f"the {provider} DSN names no host", details={"field": "model"})
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    with_user = bool(user and password)
    key = as_secret(f"{user}:{password}" if with_user else user or password)
    options = parse_options(parts.query) if parts.query else {}
    base_path = str(options.pop("base_path", "")).strip("/")
    shown = f"[{host}]" if ":" in host else host
    base_url = f"{'https' if secure else 'http'}://{shown}{f':{port}' if port else ''}{'/' + base_path if base_path else ''}"
    return ModelName(
        provider,
        unquote(parts.path.removeprefix("/")),
        base_url,
        key,
        options,
        written,
        with_user=with_user,
    )
