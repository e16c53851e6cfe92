"""The configuration file: where it is searched for, how it is read, and on which line a key is.

Its size and depth are bounded and its secrets are wrapped, so that they never appear in a message.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from majordomo import env
from majordomo.errors import ConfigurationError
from majordomo.redaction import Secret
from majordomo.routing.toml_positions import key_lines

CONFIG_FILENAME = "majordomo.toml"
CONFIG_VARIABLE = "MAJORDOMO_CONFIG"
MAX_BYTES = 1 << 20
MAX_DEPTH = 16
_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_URL_WITH_KEY = re.compile(r"://[^/]*@")


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A configuration as it was read, before it is checked."""

    source: str = ""
    """The path of the file; "" when there is none."""
    tables: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The content, with secrets wrapped in `Secret`."""
    lines: Mapping[tuple[str, ...], int] = field(default_factory=dict, repr=False)
    """Line numbers, from 1, by the path of a table or key."""

    def error(
        self, path: tuple[str, ...], message: str, code: str | None = None
    ) -> ConfigurationError:
        """Return the error about the value at `path`.

        The message names the file, the line where it is known, and the key.
        """
        line = next(
            (self.lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.lines), None
        )
        key = ".".join(name if _BARE_KEY.fullmatch(name) else repr(name) for name in path)
        location = f"{self.source or 'the configuration'}{f', line {line}' if line else ''}"
        details: dict[str, Any] = {
            "file": self.source,
            "key": key,
            "field": path[-1] if path else "",
        }
        if line:
            details["line"] = line
        return ConfigurationError(
            f"{location}: {f'{key}: ' if key else ''}{message}", code=code, details=details
        )

    def text(self, path: tuple[str, ...], value: str | Secret) -> str:
        """Return a text with each `${VARIABLE}` replaced; `$${` becomes a plain `${`.

        Raises ConfigurationError naming a variable that is not set.
        """
        template = value.reveal() if isinstance(value, Secret) else value
        references = [match for match in _REFERENCE.finditer(template) if match[1] is not None]
        for match in references:
            if not match[2] or not _VARIABLE_NAME.fullmatch(match[1]):
                raise self.error(
                    path, "a variable must be written ${NAME}; write $${ for a plain ${"
                )
            if env.variable(match[1]) is None:
                raise self.error(
                    path, f"the variable {match[1]} is not set, or empty", "MISSING_VARIABLE"
                )
        return _REFERENCE.sub(
            lambda match: "${" if match[1] is None else env.variable(match[1]) or "", template
        )

    def secrets(self, path: tuple[str, ...], value: Any) -> Iterator[Secret]:
        """Yield every text that messages about `value` must not show.

        These are the wrapped secrets and the contents of variables.
        """
        if isinstance(value, Mapping):
            for name, item in value.items():
                yield from self.secrets((*path, name), item)
        elif isinstance(value, (list, tuple)):
            for item in value:
                yield from self.secrets(path, item)
        elif isinstance(value, Secret):
            yield Secret(self.text(path, value))
        elif isinstance(value, str):
            yield from (
                Secret(env.variable(match[1]) or "")
                for match in _REFERENCE.finditer(value)
                if match[1]
            )


def has_variable(value: str | Secret) -> bool:
    """Return whether a text contains a `${VARIABLE}`."""
    return "${" in (value.reveal() if isinstance(value, Secret) else value)


def search_paths() -> list[Path]:
    """Return where a configuration is searched for. Only the first existing file is read."""
    if configured := env.variable(CONFIG_VARIABLE):
        return [expand_home(configured)]
    config_home = env.variable("XDG_CONFIG_HOME")
    # "All paths set in these environment variables must be absolute [...] consider the path invalid
    # and ignore it" (XDG base directories)
    folder = (
        Path(config_home)
        if config_home and Path(config_home).is_absolute()
        else expand_home("~/.config")
    )
    return [Path(CONFIG_FILENAME), folder / "majordomo" / CONFIG_FILENAME]


def expand_home(path: str | os.PathLike[str]) -> Path:
    """Return `path` with "~" replaced; unchanged where no home directory is known.

    That happens in containers, and Path.expanduser raises there.
    """
    return Path(os.path.expanduser(path))


def find() -> Path | None:
    """Return the configuration file; None when there is none.

    Raises ConfigurationError when MAJORDOMO_CONFIG names a file that does not exist.
    """
    for path in search_paths():
        # Until Python 3.14, Path.is_file raises for a directory that may not be searched.
        if os.path.isfile(path):
            return path
        if env.variable(CONFIG_VARIABLE):
            raise ConfigurationError(
                f"{CONFIG_VARIABLE} must name an existing file; {path} does not exist",
                details={"file": str(path), "field": CONFIG_VARIABLE},
            )
    return None


def read(path: Path) -> ConfigFile:
    """Read a configuration file.

    Raises ConfigurationError, with the line where there is one, for a file that cannot be read, is
    too large, or is not valid TOML.
    """
    document = _read(path)
    if isinstance(document, ConfigurationError):
        # Created in another function, so that no frame of the traceback holds the text of the file,
        # which may contain a key.
        raise document
    return document


def _read(path: Path) -> ConfigFile | ConfigurationError:
    # Imported only when there is a file.
    import tomllib

    source = ConfigFile(str(path))
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        return source.error((), f"cannot be read: {error.strerror or type(error).__name__}")
    if len(content) > MAX_BYTES:
        return source.error((), f"is larger than the limit of {MAX_BYTES:,} bytes")
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
        tables = tomllib.loads(text)
        return ConfigFile(source.source, seal_secrets(tables), key_lines(text))
    except UnicodeDecodeError:
        return source.error((), "is not valid UTF-8")
    except RecursionError:
        return source.error((), "is nested too deeply")
    except ConfigurationError as error:
        return source.error((), error.message)
    except ValueError as error:
        return _syntax_error(source, str(error), text)


def _syntax_error(source: ConfigFile, message: str, text: str) -> ConfigurationError:
    """Return tomllib's error without the text that it quotes, which may be part of a key."""
    message, _, position = re.sub(r"(['\"]).{4,}\1", "...", message).partition(" (at ")
    line = (
        int(match[1])
        if (match := re.match(r"line (\d+)", position))
        else text.count("\n") + 1
        if "end of document" in position
        else 0
    )
    return replace(source, lines={(): line}).error((), f"is not valid TOML: {message}")


def seal_secrets(value: Any, name: str = "", parent: str = "", depth: int = 0) -> Any:
    """Return a copy of the tables with keys wrapped in `Secret`.

    Wrapped are `api_key`, the values of `headers`, and URLs that contain a key. Raises
    ConfigurationError for tables that are nested too deeply or have a key that is not text.
    """
    if depth > MAX_DEPTH:
        raise ConfigurationError("is nested too deeply")
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ConfigurationError("the name of a setting must be text")
        if any(_URL_WITH_KEY.search(key) for key in value):
            raise ConfigurationError("the name of a setting must not be a URL with a key")
        return {key: seal_secrets(item, key, name, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [seal_secrets(item, name, parent, depth + 1) for item in value]
    if isinstance(value, str) and (
        name == "api_key" or parent == "headers" or _URL_WITH_KEY.search(value)
    ):
        return Secret(value)
    return value
