"""Model strings, read without touching anything.

    provider/model          ollama/gemma3
    provider:model          ollama:gemma3
    provider                offline
    DSN                     provider[+https]://[key@]host[:port]/model[?option=value]

In a DSN the whole path after the host is the model id (it may hold `/` and `:`); `base_path` names the path of a server below one;
every other option is a field of the request. Options are read as JSON where they are JSON, else as text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from majordomo.errors import ConfigurationError
from majordomo.secret import HIDDEN, Secret, seal

_PROVIDER = re.compile(r"[a-z][a-z0-9_-]*")
_DSN = re.compile(r"([A-Za-z][A-Za-z0-9_-]*)(\+https?)?://(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ModelName:
    """A model string, taken apart. `base_url` is "" when the provider's own default is meant; `model` may be "" likewise."""

    provider: str
    model: str = ""
    base_url: str = ""
    key: Secret | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """The string again, its key masked."""
        if not self.base_url:
            return f"{self.provider}/{self.model}" if self.model else self.provider
        scheme, _, rest = self.base_url.partition("://")
        host = rest.partition("/")[0]
        return f"{self.provider}{'+https' if scheme == 'https' else ''}://{HIDDEN + '@' if self.key else ''}{host}/{self.model}"


def parse(name: str) -> ModelName:
    """Raises ConfigurationError for a string that names no model. Never shows the string: it may hold a key."""
    if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > 2000:
        raise ConfigurationError("a model string is text such as llamaswap/qwen3", details={"field": "model"})
    name = name.strip()
    if found := _DSN.fullmatch(name):
        return _dsn(canonical(found[1]), found[2] == "+https", found[3])
    cut = re.search(r"[/:]", name)
    provider, model = (name[: cut.start()], name[cut.end() :]) if cut else (name, "")
    if cut and not model:
        raise ConfigurationError(f"{name!r} names no model", details={"field": "model"})
    return ModelName(canonical(provider), model)


def canonical(provider: str) -> str:
    """A provider's name as its file is called: `llama-swap` and `LlamaSwap` are `llamaswap`."""
    word = provider.lower()
    if not _PROVIDER.fullmatch(word):
        raise ConfigurationError("a provider's name is letters and digits", details={"field": "provider"})
    return word.replace("-", "").replace("_", "")


def _dsn(provider: str, secure: bool, rest: str) -> ModelName:
    try:
        parts = urlsplit("//" + rest)
        port = parts.port
        host = parts.hostname
    except ValueError:
        host = None
    if not host:
        raise ConfigurationError(f"the {provider} DSN names no host", details={"field": "model"})
    key = seal(unquote(parts.password or parts.username or ""))
    options: dict[str, Any] = {}
    for option, text in parse_qsl(parts.query, keep_blank_values=True):
        try:
            options[option] = json.loads(text)
        except ValueError:
            options[option] = text
    base_path = str(options.pop("base_path", "")).strip("/")
    shown = f"[{host}]" if ":" in host else host
    base_url = f"{'https' if secure else 'http'}://{shown}{f':{port}' if port else ''}{'/' + base_path if base_path else ''}"
    return ModelName(provider, unquote(parts.path.removeprefix("/")), base_url, key, options)
