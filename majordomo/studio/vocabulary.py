"""The words that the classifier knows: a data file of the package, and whatever a caller lays over it."""

from __future__ import annotations

import os
import re
import tomllib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from majordomo.errors import ConfigurationError

KINDS = (
    "subject",
    "style",
    "medium",
    "mood",
    "orientation",
    "aspect",
    "safety",
    "text",
    "count",
    "number",
    "language",
)
ORIENTATIONS = ("portrait", "landscape", "square")
MAX_PHRASE_WORDS = 8  # words of one entry
_BESIDE = Path(__file__).with_name("vocabulary.toml")
# One letter each where words have no spaces between them (kana, han, hangul, thai, lao, khmer), a word everywhere else
_UNSPACED = (
    "\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
)
_WORDS = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
Table = Mapping[str, Mapping[str, Sequence[str]]]


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a text, folded for comparing, and where it stands."""

    folded: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Match:
    """An entry found in a text: words `first` up to, not including, `last`."""

    kind: str
    category: str
    first: int
    last: int


def words_of(text: str) -> list[Word]:
    """The words of `text` in order, in linear time."""
    return [
        Word(found[0].casefold(), found.start(), found.end()) for found in _WORDS.finditer(text)
    ]


class Vocabulary:
    """Words by kind and category, made ready for looking up. Immutable.

    `tables` are laid over each other in order. Raises ConfigurationError, naming the entry, for what is no such table.
    """

    def __init__(self, *tables: Table) -> None:
        self._entries: dict[str, list[tuple[tuple[str, ...], str, str]]] = {}  # by first word
        self._categories: dict[str, list[str]] = {kind: [] for kind in KINDS}
        for table in tables:
            for kind, category, phrase in _checked(table):
                self._add(kind, category, phrase)
        for entries in self._entries.values():
            entries.sort(key=lambda entry: -len(entry[0]))

    def _add(self, kind: str, category: str, phrase: str | None) -> None:
        if category not in self._categories[kind]:
            self._categories[kind].append(category)
        if phrase is None:
            return
        words = tuple(word.folded for word in words_of(unicodedata.normalize("NFC", phrase)))
        if not words or len(words) > MAX_PHRASE_WORDS:
            raise ConfigurationError(
                f"vocabulary: {kind}.{category}: {phrase[:80]!r} is not one to {MAX_PHRASE_WORDS} words",
                details={"field": "vocabulary"},
            )
        entry = (words, kind, category)
        entries = self._entries.setdefault(words[0], [])
        if entry not in entries:
            entries.append(entry)

    def categories(self, kind: str) -> tuple[str, ...]:
        """The names of the categories of a kind, in the order of the tables."""
        return tuple(self._categories[kind])

    def matches(self, words: Sequence[Word]) -> Iterator[Match]:
        """Every entry that stands in the text, from left to right. Of one kind, a longer entry hides those that it covers."""
        covered = dict.fromkeys(KINDS, 0)
        for at in range(len(words)):
            for phrase, kind, category in self._beginning(words[at].folded):
                last = at + len(phrase)
                # a language's small words stand in several languages
                if (last > covered[kind] or kind in ("language", "safety")) and _stands(
                    phrase, words, at
                ):
                    covered[kind] = max(covered[kind], last)
                    yield Match(kind, category, at, last)

    def _beginning(self, word: str) -> list[tuple[tuple[str, ...], str, str]]:
        found = self._entries.get(word, [])
        singular = self._entries.get(word[:-1], []) if len(word) > 3 and word.endswith("s") else []
        return (
            found + [entry for entry in singular if len(entry[0]) == 1 and entry[1] != "language"]
            if singular
            else found
        )


def _stands(phrase: tuple[str, ...], words: Sequence[Word], at: int) -> bool:
    if at + len(phrase) > len(words):
        return False
    return all(words[at + i].folded == phrase[i] for i in range(1, len(phrase)))


def _checked(table: object) -> Iterator[tuple[str, str, str | None]]:
    if not isinstance(table, Mapping):
        raise ConfigurationError(
            f"a vocabulary is a mapping of tables, not {type(table).__name__}",
            details={"field": "vocabulary"},
        )
    for kind, categories in table.items():
        if kind not in KINDS:
            raise ConfigurationError(
                f"vocabulary: there is no table {str(kind)[:80]!r}; there are {', '.join(KINDS)}",
                details={"field": "vocabulary"},
            )
        if not isinstance(categories, Mapping):
            raise ConfigurationError(
                f"vocabulary: {kind} is a table of categories", details={"field": "vocabulary"}
            )
        for category, phrases in categories.items():
            _check_category(kind, category, phrases)
            yield kind, category, None
            yield from ((kind, category, phrase) for phrase in phrases)


def _check_category(kind: str, category: Any, phrases: Any) -> None:
    where = f"vocabulary: {kind}.{str(category)[:80]}"
    if not isinstance(phrases, (list, tuple)) or not all(
        isinstance(phrase, str) for phrase in phrases
    ):
        raise ConfigurationError(f"{where} is a list of words", details={"field": "vocabulary"})
    if kind == "orientation" and category not in ORIENTATIONS:
        raise ConfigurationError(
            f"{where}: an orientation is {', '.join(ORIENTATIONS)}", details={"field": "vocabulary"}
        )
    if kind == "aspect" and not re.fullmatch(r"[1-9]\d?:[1-9]\d?", str(category)):
        raise ConfigurationError(
            f'{where}: an aspect is "WIDTH:HEIGHT"', details={"field": "vocabulary"}
        )
    if kind == "number" and not str(category).isdecimal():
        raise ConfigurationError(
            f"{where}: a number is written in digits", details={"field": "vocabulary"}
        )


@cache
def own_table() -> Table:
    """The data file of the package."""
    return tomllib.loads(_BESIDE.read_text(encoding="utf-8"))


@cache
def own_vocabulary() -> Vocabulary:
    return Vocabulary(own_table())


def load_vocabulary(extra: Vocabulary | Table | str | os.PathLike[str] | None = None) -> Vocabulary:
    """The package's own words, with those of `extra` (a mapping, or the path of a TOML file) laid over them.

    Raises ConfigurationError for a file that cannot be read or a table of another shape.
    """
    if extra is None:
        return own_vocabulary()
    if isinstance(extra, Vocabulary):
        return extra
    if isinstance(extra, (str, os.PathLike)):
        extra = _read(extra)
    return Vocabulary(own_table(), extra)


def _read(path: str | os.PathLike[str]) -> Table:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"the vocabulary {os.fspath(path)} cannot be read: {error}",
            details={"field": "vocabulary"},
        ) from None
