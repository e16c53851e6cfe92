"""The classifier's vocabulary: the package's data file and the user's additions.

Phrases are indexed by their first word, so that matching a text takes linear time.
"""

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
# Words of one entry.
MAX_PHRASE_WORDS = 8
_DATA_FILE = Path(__file__).with_name("vocabulary.toml")
# Scripts without spaces between words (Thai, Lao, Khmer, kana, Han, Hangul): each character is
# matched as a word. In other scripts a word is a run of letters and digits.
_UNSPACED = (
    "\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
)
_WORDS = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
Table = Mapping[str, Mapping[str, Sequence[str]]]
# The case-folded words of a phrase, its kind and its category.
_Entry = tuple[tuple[str, ...], str, str]


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a text."""

    folded: str
    """The word, case-folded for comparing."""
    start: int
    """Index of its first character."""
    end: int
    """Index behind its last character."""


@dataclass(frozen=True, slots=True)
class Match:
    """A vocabulary entry that occurs in a text."""

    kind: str
    """The entry's kind, one of `KINDS`."""
    category: str
    """The entry's category."""
    first: int
    """Index of the first matched word."""
    last: int
    """Index behind the last matched word."""


def words_of(text: str) -> list[Word]:
    """Return the words of `text` in order, in linear time."""
    return [
        Word(match[0].casefold(), match.start(), match.end()) for match in _WORDS.finditer(text)
    ]


class Vocabulary:
    """An immutable vocabulary: phrases by kind and category.

    Args:
        *tables: Mappings of kind to category to phrases. Each adds to those before it.

    Raises:
        ConfigurationError: A table is invalid; the message names the entry.
    """

    def __init__(self, *tables: Table) -> None:
        # Entries by their first word, longest first.
        self._entries: dict[str, list[_Entry]] = {}
        self._categories: dict[str, list[str]] = {kind: [] for kind in KINDS}
        for table in tables:
            for kind, category, phrase in _checked_entries(table):
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
                f"vocabulary: {kind}.{category}: an entry must have 1 to {MAX_PHRASE_WORDS} words;"
                f" got {phrase[:80]!r}",
                details={"field": "vocabulary"},
            )
        entry = (words, kind, category)
        entries = self._entries.setdefault(words[0], [])
        if entry not in entries:
            entries.append(entry)

    def categories(self, kind: str) -> tuple[str, ...]:
        """Return the categories of a kind, in the order of the tables."""
        return tuple(self._categories[kind])

    def matches(self, words: Sequence[Word]) -> Iterator[Match]:
        """Yield every entry in the text, from left to right.

        Within one kind, a longer entry hides the entries that it covers.
        """
        covered = dict.fromkeys(KINDS, 0)
        for index in range(len(words)):
            for phrase, kind, category in self._entries_starting_with(words[index].folded):
                last = index + len(phrase)
                # Several languages share small words, and safety hints are never hidden.
                is_visible = last > covered[kind] or kind in ("language", "safety")
                if is_visible and _matches_at(phrase, words, index):
                    covered[kind] = max(covered[kind], last)
                    yield Match(kind, category, index, last)

    def _entries_starting_with(self, word: str) -> list[_Entry]:
        """Return the entries that start with a word; its English singular matches as well."""
        entries = self._entries.get(word, [])
        singular = self._entries.get(word[:-1], []) if len(word) > 3 and word.endswith("s") else []
        if not singular:
            return entries
        return entries + [
            entry for entry in singular if len(entry[0]) == 1 and entry[1] != "language"
        ]


def _matches_at(phrase: tuple[str, ...], words: Sequence[Word], index: int) -> bool:
    """Return whether the phrase occurs at an index where its first word is known to match."""
    if index + len(phrase) > len(words):
        return False
    return all(words[index + i].folded == phrase[i] for i in range(1, len(phrase)))


def _checked_entries(table: object) -> Iterator[tuple[str, str, str | None]]:
    """Yield kind, category and phrase of every entry, and None as phrase for every category."""
    if not isinstance(table, Mapping):
        raise ConfigurationError(
            f"a vocabulary must be a mapping of tables; got a {type(table).__name__}",
            details={"field": "vocabulary"},
        )
    for kind, categories in table.items():
        if kind not in KINDS:
            raise ConfigurationError(
                f"vocabulary: unknown table {str(kind)[:80]!r}; use one of {', '.join(KINDS)}",
                details={"field": "vocabulary"},
            )
        if not isinstance(categories, Mapping):
            raise ConfigurationError(
                f"vocabulary: {kind} must be a table of categories; got a"
                f" {type(categories).__name__}",
                details={"field": "vocabulary"},
            )
        for category, phrases in categories.items():
            _check_category(kind, category, phrases)
            yield kind, category, None
            yield from ((kind, category, phrase) for phrase in phrases)


def _check_category(kind: str, category: Any, phrases: Any) -> None:
    entry = f"vocabulary: {kind}.{str(category)[:80]}"
    if not isinstance(phrases, (list, tuple)) or not all(
        isinstance(phrase, str) for phrase in phrases
    ):
        problem = "must be a list of texts"
    elif kind == "orientation" and category not in ORIENTATIONS:
        problem = f"an orientation must be one of {', '.join(ORIENTATIONS)}"
    elif kind == "aspect" and not re.fullmatch(r"[1-9]\d?:[1-9]\d?", str(category)):
        problem = 'an aspect must be "WIDTH:HEIGHT", for example "16:9"'
    elif kind == "number" and not str(category).isdecimal():
        problem = "a number must be written in digits"
    else:
        return
    raise ConfigurationError(f"{entry}: {problem}", details={"field": "vocabulary"})


@cache
def default_table() -> Table:
    """Return the table of the package's data file."""
    return tomllib.loads(_DATA_FILE.read_text(encoding="utf-8"))


@cache
def default_vocabulary() -> Vocabulary:
    """Return the package's vocabulary."""
    return Vocabulary(default_table())


def load_vocabulary(extra: Vocabulary | Table | str | os.PathLike[str] | None = None) -> Vocabulary:
    """Return the package's vocabulary with additions.

    Args:
        extra: A mapping, or the path of a TOML file, that is added to the package's vocabulary. A
            Vocabulary is returned unchanged. None adds nothing.

    Raises:
        ConfigurationError: The file cannot be read, or the table is invalid.
    """
    if extra is None:
        return default_vocabulary()
    if isinstance(extra, Vocabulary):
        return extra
    if isinstance(extra, (str, os.PathLike)):
        extra = _read_table(extra)
    return Vocabulary(default_table(), extra)


def _read_table(path: str | os.PathLike[str]) -> Table:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"the vocabulary {os.fspath(path)} cannot be read: {error}",
            details={"field": "vocabulary"},
        ) from None
