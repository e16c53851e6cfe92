"""A configuration as it was read: found, of bounded size, its secrets sealed, and able to say where a key stands."""

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
from majordomo.routing.toml_positions import lines_of

NAME = "majordomo.toml"
VARIABLE = "MAJORDOMO_CONFIG"
MAX_BYTES = 1 << 20  # bytes of a file
MAX_DEPTH = 16
_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WITH_KEY = re.compile(r"://[^/]*@")


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """`source` is the file, "" when there is none; `tables` what it says; `lines` where."""

    source: str = ""
    tables: Mapping[str, Any] = field(default_factory=dict, repr=False)
    lines: Mapping[tuple[str, ...], int] = field(default_factory=dict, repr=False)

    def error(
        self, path: tuple[str, ...], message: str, code: str | None = None
    ) -> ConfigurationError:
        """The error about what stands at `path`; it names the file, the line where one is known, and the key."""
        line = next(
            (self.lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.lines), None
        )
        key = ".".join(name if _BARE.fullmatch(name) else repr(name) for name in path)
        where = f"{self.source or 'the configuration'}{f', line {line}' if line else ''}"
        details: dict[str, Any] = {
            "file": self.source,
            "key": key,
            "field": path[-1] if path else "",
        }
        if line:
            details["line"] = line
        return ConfigurationError(
            f"{where}: {f'{key}: ' if key else ''}{message}", code=code, details=details
        )

    def text(self, path: tuple[str, ...], value: str | Secret) -> str:
        """A text with each `${VARIABLE}` replaced; `$${` is a plain `${`. Raises ConfigurationError naming a variable that is not set."""
        given = value.reveal() if isinstance(value, Secret) else value
        found = [match for match in _REFERENCE.finditer(given) if match[1] is not None]
        for match in found:
            if not match[2] or not _NAME.fullmatch(match[1]):
                raise self.error(path, "a variable is written ${NAME}; a plain ${ is written $${")
            if env.variable(match[1]) is None:
                raise self.error(
                    path, f"the variable {match[1]} is not set, or empty", "MISSING_VARIABLE"
                )
        return _REFERENCE.sub(
            lambda match: "${" if match[1] is None else env.variable(match[1]) or "", given
        )

    def secrets(self, path: tuple[str, ...], value: Any) -> Iterator[Secret]:
        """Every text that must not be shown in what is said about `value`: sealed ones, and what came out of variables."""
        if isinstance(value, Mapping):
            for name, inner in value.items():
                yield from self.secrets((*path, name), inner)
        elif isinstance(value, (list, tuple)):
            for inner in value:
                yield from self.secrets(path, inner)
        elif isinstance(value, Secret):
            yield Secret(self.text(path, value))
        elif isinstance(value, str):
            yield from (
                Secret(env.variable(match[1]) or "")
                for match in _REFERENCE.finditer(value)
                if match[1]
            )


_BARE = re.compile(r"[A-Za-z0-9_-]+")


def has_variable(value: str | Secret) -> bool:
    return "${" in (value.reveal() if isinstance(value, Secret) else value)


def search_paths() -> list[Path]:
    """Where a configuration is looked for, in this order: the first file there is counts, alone."""
    if named := env.variable(VARIABLE):
        return [below_home(named)]
    home = env.variable("XDG_CONFIG_HOME")
    # "All paths set in these environment variables must be absolute [...] consider the path invalid and ignore it" (XDG base directories)
    folder = Path(home) if home and Path(home).is_absolute() else below_home("~/.config")
    return [Path(NAME), folder / "majordomo" / NAME]


def below_home(path: str | os.PathLike[str]) -> Path:
    """`path` with its "~" replaced; as it is where nobody's home is known, as in a container. (Path.expanduser raises there.)"""
    return Path(os.path.expanduser(path))


def find() -> Path | None:
    """The file that counts; None when there is none. Raises ConfigurationError when MAJORDOMO_CONFIG names one that is not there."""
    for path in search_paths():
        if os.path.isfile(
            path
        ):  # Path.is_file raises, until Python 3.14, where a folder may not be looked into
            return path
        if env.variable(VARIABLE):
            raise ConfigurationError(
                f"{VARIABLE} names {path}, and there is no such file",
                details={"file": str(path), "field": VARIABLE},
            )
    return None


def read(path: Path) -> ConfigFile:
    """Raises ConfigurationError, with the line where there is one, for a file that cannot be read, is too large, or is no TOML."""
    document = _read(path)
    if isinstance(document, ConfigurationError):
        raise document  # made elsewhere: the text, which may hold a key, is no local of a frame in the traceback
    return document


def _read(path: Path) -> ConfigFile | ConfigurationError:
    import tomllib  # not before there is a file

    source = ConfigFile(str(path))
    try:
        with path.open("rb") as file:
            held = file.read(MAX_BYTES + 1)
    except OSError as error:
        return source.error((), f"cannot be read: {error.strerror or type(error).__name__}")
    if len(held) > MAX_BYTES:
        return source.error((), f"is larger than the limit of {MAX_BYTES:,} bytes")
    try:
        text = held.decode("utf-8-sig").replace("\r\n", "\n")
        tables = tomllib.loads(text)
        return ConfigFile(source.source, with_secrets(tables), lines_of(text))
    except UnicodeDecodeError:
        return source.error((), "is no UTF-8 text")
    except RecursionError:
        return source.error((), "is nested too deeply")
    except ConfigurationError as error:
        return source.error((), error.message)
    except ValueError as error:
        return _no_toml(source, str(error), text)


def _no_toml(source: ConfigFile, message: str, text: str) -> ConfigurationError:
    """What tomllib says, without what it quotes: that may be a part of a key."""
    message, _, where = re.sub(r"(['\"]).{4,}\1", "...", message).partition(" (at ")
    line = (
        int(found[1])
        if (found := re.match(r"line (\d+)", where))
        else text.count("\n") + 1
        if "end of document" in where
        else 0
    )
    return replace(source, lines={(): line}).error((), f"is no TOML: {message}")


def with_secrets(value: Any, name: str = "", parent: str = "", depth: int = 0) -> Any:
    """The same tables with keys sealed: `api_key`, the values of `headers`, and addresses that hold one. A copy.

    Raises ConfigurationError for tables nested too deeply, or with a key that is no text.
    """
    if depth > MAX_DEPTH:
        raise ConfigurationError("is nested too deeply")
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ConfigurationError("the name of a setting is text")
        if any(_WITH_KEY.search(key) for key in value):
            raise ConfigurationError("an address with a key stands where a name belongs")
        return {key: with_secrets(inner, key, name, depth + 1) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [with_secrets(inner, name, parent, depth + 1) for inner in value]
    if isinstance(value, str) and (
        name == "api_key" or parent == "headers" or _WITH_KEY.search(value)
    ):
        return Secret(value)
    return value
