"""Classify briefs by rules, without a network or a model and in linear time.

A classification records the passages of the brief that it is based on.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from majordomo.errors import CallWarning, InvalidRequestError
from majordomo.studio.vocabulary import Match, Table, Vocabulary, Word, load_vocabulary, words_of
from majordomo.validation import check_text

MAX_BRIEF_CHARACTERS = 20_000
# Length of the text to write in the image.
MAX_TEXT_CHARACTERS = 200
# Images in one run.
MAX_IMAGES = 16
# Passages that a classification records.
MAX_FOUND = 200
# Words of a text that follows a cue and is ended by neither quotation marks nor punctuation.
_MAX_CUE_WORDS = 8
# Each alternative opens with one mark and closes with its counterpart. The length is bounded, so
# that a thousand opening marks cost at most a thousand times 200 characters.
_QUOTED = re.compile(
    r'"([^"\n]{1,200})"|“([^”“\n]{1,200})[”“]|„([^“”\n]{1,200})[“”]|«([^»\n]{1,200})»'
    r"|「([^」\n]{1,200})」|『([^』\n]{1,200})』"
    r"|(?<!\w)'([^'\n]{2,200})'(?!\w)|(?<!\w)\u2018([^\u2019\n]{2,200})\u2019(?!\w)"
)
_SIZE = re.compile(r"(?<![\w.])([0-9]{3,5})\s?[xX\u00d7]\s?([0-9]{3,5})(?![\w.]*[0-9])")
_ASPECT = re.compile(r"(?<![0-9:.])([0-9]{1,2})\s?:\s?([0-9]{1,2})(?![0-9:])")
_CLAUSE_END = re.compile(r"[,.;:!?\n()\[\]\uff0c\u3002\uff1b\u3001\uff01\uff1f]")
_SCRIPTS = (
    ("ja", re.compile("[\u3040-\u30ff]")),
    ("ko", re.compile("[\uac00-\ud7af]")),
    ("zh", re.compile("[\u3400-\u9fff]")),
    # Letters that Persian has and Arabic does not.
    ("fa", re.compile("[\u067e\u0686\u0698\u06af]")),
    ("ar", re.compile("[\u0600-\u06ff]")),
    ("he", re.compile("[\u0590-\u05ff]")),
    ("el", re.compile("[\u0370-\u03ff]")),
    ("hi", re.compile("[\u0900-\u097f]")),
    ("th", re.compile("[\u0e00-\u0e7f]")),
)


@dataclass(frozen=True, slots=True)
class Found:
    """A passage of the brief that the classifier recognized."""

    kind: str
    """What the passage is about: a kind of the vocabulary, `"size"`, `"cue"` or `"text"`."""
    value: str
    """What it says, for example a category."""
    text: str
    """The passage as it is in the brief."""
    start: int
    """Index of its first character in the brief."""
    end: int
    """Index after its last character."""


@dataclass(frozen=True, slots=True)
class Classification:
    """What the classifier read from a brief.

    A field is "", 0 or empty when the brief says nothing about it.
    """

    brief: str
    """The brief, normalized and without control characters."""
    subject: str = ""
    """Category of the subject."""
    style: str = ""
    """Category of the style."""
    medium: str = ""
    """Category of the medium."""
    mood: str = ""
    """Category of the mood."""
    orientation: str = ""
    """`"portrait"`, `"landscape"` or `"square"`."""
    aspect: str = ""
    """`"WIDTH:HEIGHT"`."""
    size: str = ""
    """`"WIDTHxHEIGHT"` in pixels, 128 to 16,384 a side."""
    text: str = ""
    """The text to write in the image, at most 200 characters."""
    count: int = 0
    """Number of images, at most 16."""
    safety: tuple[str, ...] = ()
    """Categories that deserve a closer look. They are hints and refuse nothing."""
    language: str = ""
    """Language of the brief as an ISO 639-1 code."""
    found: tuple[Found, ...] = ()
    """The passages that the other fields are based on, at most 200."""
    warnings: tuple[CallWarning, ...] = ()
    """What was changed in the brief, or reduced to a limit."""

    def all(self, kind: str) -> tuple[str, ...]:
        """Return every category of a kind that the brief names, in its order."""
        return tuple(dict.fromkeys(found.value for found in self.found if found.kind == kind))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        values = asdict(self)
        return {
            **values,
            "safety": list(self.safety),
            "found": list(values["found"]),
            "warnings": list(values["warnings"]),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Classification:
        """Create a classification from the values of `to_dict`.

        Raises:
            InvalidRequestError: The values are not a saved classification.
        """
        try:
            fields = dict(values)
            fields["safety"] = tuple(fields["safety"])
            fields["found"] = tuple(Found(**found) for found in fields["found"])
            fields["warnings"] = tuple(CallWarning(**warning) for warning in fields["warnings"])
            classification = cls(**fields)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidRequestError(
                f"the values are not a saved classification: {type(error).__name__}",
                field="classification",
            ) from None
        check_text(classification.brief, "brief", MAX_BRIEF_CHARACTERS)
        return classification


def classify(
    brief: str,
    vocabulary: Vocabulary | Table | str | os.PathLike[str] | None = None,
    *,
    limit: int = MAX_BRIEF_CHARACTERS,
) -> Classification:
    """Classify a brief in any language. No brief is refused for what it says.

    Args:
        brief: The brief. Control characters become spaces, with a warning.
        vocabulary: Additional vocabulary: a mapping, or the path of a TOML file, see
            `load_vocabulary`.
        limit: Maximum number of characters, 20,000 by default.

    Returns:
        What the brief says.

    Raises:
        InvalidRequestError: The brief is not a text, is empty or too long, or contains NUL or lone
            surrogates (field `brief`).
        ConfigurationError: The vocabulary is invalid.

    Example:
        ```pycon
        >>> classify("a watercolor cat, 16:9").medium
        'watercolor'
        ```
    """
    loaded = load_vocabulary(vocabulary)
    check_text(brief, "brief", limit)
    cleaned = clean(brief)
    if not cleaned:
        raise InvalidRequestError("brief must not be empty", field="brief")
    warnings = () if cleaned == unicodedata.normalize("NFC", brief).strip() else (_CLEANED,)
    return _Reader(cleaned, loaded).classify(warnings)


_CLEANED = CallWarning(
    "BRIEF_CLEANED", "control characters in the brief were replaced with spaces", "brief"
)
# Emoji and the spelling of Persian and Indic languages need joiners. Other invisible characters
# only hide or reorder text.
_JOINERS = "\u200c\u200d"


def clean(text: str) -> str:
    """Normalize to NFC and replace control and invisible format characters; keep line breaks."""
    text = unicodedata.normalize("NFC", text).replace("\r\n", "\n")
    if not text.isprintable():
        characters = (
            c
            if c.isprintable() or c in "\n\t" or c in _JOINERS or unicodedata.category(c) == "Zs"
            else " "
            for c in text
        )
        text = "".join(characters)
    return text.strip()


class _Reader:
    """Reads one brief.

    The text to write in the image is found first and masked: its words say nothing about the image,
    except for safety hints.
    """

    def __init__(self, brief: str, vocabulary: Vocabulary) -> None:
        self._brief = brief
        self._vocabulary = vocabulary
        self._words = words_of(brief)
        self._found: list[Found] = []
        self._matches = list(vocabulary.matches(self._words))
        # 1 for each character of a text to write in the image.
        self._mask = bytearray(len(brief))

    def classify(self, warnings: tuple[CallWarning, ...]) -> Classification:
        text = self._read_text()
        self._matches = [
            match for match in self._matches if match.kind == "safety" or not self._is_masked(match)
        ]
        size, aspect = self._read_size(), self._read_aspect()
        orientation = self._read_orientation(size, aspect)
        count, count_warnings = self._read_count()
        categories = {
            kind: self._frequent_category(kind) for kind in ("subject", "style", "medium", "mood")
        }
        safety = tuple(
            dict.fromkeys(
                self._record_match(match).value for match in self._matches if match.kind == "safety"
            )
        )
        return Classification(
            self._brief,
            **categories,
            orientation=orientation,
            aspect=aspect,
            size=size,
            text=text,
            count=count,
            safety=safety,
            language=self._read_language(),
            found=tuple(
                sorted(self._found, key=lambda found: (found.start, found.kind))[:MAX_FOUND]
            ),
            warnings=warnings + count_warnings,
        )

    def _record_match(self, match: Match) -> Found:
        start, end = self._words[match.first].start, self._words[match.last - 1].end
        return self._record(match.kind, match.category, start, end)

    def _record(self, kind: str, value: str, start: int, end: int) -> Found:
        found = Found(kind, value, self._brief[start:end], start, end)
        self._found.append(found)
        return found

    def _hide(self, start: int, end: int) -> None:
        self._mask[start:end] = b"\1" * (end - start)

    def _is_masked(self, match: Match) -> bool:
        return bool(self._mask[self._words[match.first].start])

    def _matches_of(self, kind: str) -> Iterable[Match]:
        return (match for match in self._matches if match.kind == kind)

    def _frequent_category(self, kind: str) -> str:
        """Return the category named most often; of several such categories, the first."""
        counts: dict[str, int] = {}
        for match in self._matches_of(kind):
            self._record_match(match)
            counts[match.category] = counts.get(match.category, 0) + 1
        return max(counts, key=lambda category: counts[category]) if counts else ""

    def _read_text(self) -> str:
        """Return the text to write in the image.

        This is the text that follows a cue, or else the first text in quotation marks.
        """
        quoted = [
            (match.span(), next(group for group in match.groups() if group is not None))
            for match in _QUOTED.finditer(self._brief)
        ]
        for span, _ in quoted:
            self._hide(*span)
        cue = next(
            (match for match in self._matches_of("text") if not self._is_masked(match)), None
        )
        if cue is not None:
            start = self._words[cue.last - 1].end
            self._record("cue", "text", self._words[cue.first].start, start)
            following = next((quote for quote in quoted if quote[0][0] >= start), None)
            if following is not None and not self._brief[start : following[0][0]].strip(" :=-\n\t"):
                quoted = [following]
            elif (unquoted := self._unquoted_text(start)) is not None:
                self._hide(*unquoted[0])
                quoted = [unquoted]
        for span, text in quoted:
            if text.strip():
                self._record("text", text.strip(), *span)
                return text.strip()
        return ""

    def _unquoted_text(self, start: int) -> tuple[tuple[int, int], str] | None:
        """Return span and content of a text without quotation marks that follows a cue.

        It is a run of capitalized words, or else up to 8 words of the clause.
        """
        window = self._brief[start : start + MAX_TEXT_CHARACTERS]
        offset = len(window) - len(window.lstrip(" :=-\n\t"))
        clause = _CLAUSE_END.split(window[offset:], maxsplit=1)[0]
        words = words_of(clause)
        if not words:
            return None
        end = _capitals_end(clause, words) or words[min(len(words), _MAX_CUE_WORDS) - 1].end
        text_start = start + offset
        return (text_start, text_start + end), clause[:end].strip()

    def _read_size(self) -> str:
        for match in _SIZE.finditer(self._brief):
            width, height = int(match[1]), int(match[2])
            if min(width, height) >= 128 and max(width, height) <= 16_384:
                self._record("size", f"{width}x{height}", *match.span())
                return f"{width}x{height}"
        return ""

    def _read_aspect(self) -> str:
        """Return the first aspect in digits that the vocabulary knows, or else a named one."""
        known = self._vocabulary.categories("aspect")
        for match in _ASPECT.finditer(self._brief):
            aspect = f"{int(match[1])}:{int(match[2])}"
            if aspect in known and not self._mask[match.start()]:
                self._record("aspect", aspect, *match.span())
                return aspect
        named = next(iter(self._matches_of("aspect")), None)
        return "" if named is None else self._record_match(named).value

    def _read_orientation(self, size: str, aspect: str) -> str:
        """Return the orientation of size or aspect, or else the one named by a word.

        Numbers take precedence over words: "a landscape, 9:16" is portrait.
        """
        named = [self._record_match(match).value for match in self._matches_of("orientation")]
        sides = re.split("[x:]", size or aspect)
        if len(sides) == 2:
            width, height = int(sides[0]), int(sides[1])
            return "square" if width == height else "landscape" if width > height else "portrait"
        return named[0] if named else ""

    def _read_count(self) -> tuple[int, tuple[CallWarning, ...]]:
        """Return the number of images, 0 if the brief names none, and warnings.

        It is the first number that is followed, directly or after one other word, by a noun such as
        "variants".
        """
        nouns = {match.first for match in self._matches_of("count")}
        # The number and the index of its first word, by the index after its last word.
        numbers = {
            match.last: (int(match.category), match.first) for match in self._matches_of("number")
        }
        numbers |= {
            index + 1: (int(word.folded), index)
            for index, word in enumerate(self._words)
            if _is_number(word)
        }
        for last in sorted(numbers):
            noun = next((index for index in (last, last + 1) if index in nouns), None)
            number, first = numbers[last]
            if noun is not None and number >= 1:
                count = min(number, MAX_IMAGES)
                self._record("count", str(count), self._words[first].start, self._words[noun].end)
                return count, () if count == number else (_count_warning(number),)
        return 0, ()

    def _read_language(self) -> str:
        """Return the language that the script or else the function words indicate."""
        unmasked = "".join(
            c for c, masked in zip(self._brief, self._mask, strict=True) if not masked
        )
        letters = [c for c in unmasked or self._brief if c.isalpha()]
        for language, script in _SCRIPTS:
            count = sum(1 for c in letters if script.match(c))
            # Japanese and Persian mix their own letters with those of Chinese and Arabic, so a
            # twentieth of the letters is enough; other scripts need a third.
            if count and count * (20 if language in ("ja", "fa") else 3) >= len(letters):
                return language
        return self._language_of_function_words()

    def _language_of_function_words(self) -> str:
        """Return the language with the highest score, "" for a tie without English.

        A word that four languages share gives each of them a quarter of a point.
        """
        languages: dict[int, list[str]] = {}
        for match in self._matches_of("language"):
            languages.setdefault(match.first, []).append(match.category)
        scores: dict[str, Fraction] = {}
        for sharing in languages.values():
            for language in sharing:
                scores[language] = scores.get(language, Fraction(0)) + Fraction(1, len(sharing))
        leaders = [language for language, score in scores.items() if score == max(scores.values())]
        if len(leaders) == 1:
            return leaders[0]
        # "a" alone is a word of several languages, and most briefs are in English.
        return "en" if "en" in leaders else ""


def _is_number(word: Word) -> bool:
    return word.folded.isdecimal() and len(word.folded) <= 3


def _count_warning(number: int) -> CallWarning:
    return CallWarning(
        "COUNT_CLAMPED",
        f"the brief asks for {number} images; only {MAX_IMAGES} are generated",
        "n",
    )


def _capitals_end(clause: str, words: Sequence[Word]) -> int:
    """Return where the capitalized words or numbers at the start of the clause end; 0 for none."""
    end = 0
    for word in words:
        first = clause[word.start]
        if not (first.isupper() or first.isdecimal()):
            break
        end = word.end
    return end
