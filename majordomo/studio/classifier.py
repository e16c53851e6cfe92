"""What a brief is about, by rules alone: fast, in linear time, without a network, and saying what it went by."""

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

BRIEF_LIMIT = 20_000  # characters
MOST_TEXT = 200  # characters to be written in a picture
MOST_COUNT = 16
MOST_FOUND = 200
_CUE_WORDS = 8  # of a text that nothing ends
# Each opens with one mark and closes with its own; bounded, so that a thousand opening marks cost a thousand times 200, not more
_QUOTED = re.compile(
    r'"([^"\n]{1,200})"|“([^”“\n]{1,200})[”“]|„([^“”\n]{1,200})[“”]|«([^»\n]{1,200})»|「([^」\n]{1,200})」|『([^』\n]{1,200})』'
    r"|(?<!\w)'([^'\n]{2,200})'(?!\w)|(?<!\w)\u2018([^\u2019\n]{2,200})\u2019(?!\w)"
)
_SIZE = re.compile(r"(?<![\w.])([0-9]{3,5})\s?[xX\u00d7]\s?([0-9]{3,5})(?![\w.]*[0-9])")
_ASPECT = re.compile(r"(?<![0-9:.])([0-9]{1,2})\s?:\s?([0-9]{1,2})(?![0-9:])")
_CLAUSE = re.compile(r"[,.;:!?\n()\[\]\uff0c\u3002\uff1b\u3001\uff01\uff1f]")
_SCRIPTS = (
    ("ja", re.compile("[\u3040-\u30ff]")),
    ("ko", re.compile("[\uac00-\ud7af]")),
    ("zh", re.compile("[\u3400-\u9fff]")),
    ("fa", re.compile("[\u067e\u0686\u0698\u06af]")),  # letters that Arabic has not
    ("ar", re.compile("[\u0600-\u06ff]")),
    ("he", re.compile("[\u0590-\u05ff]")),
    ("el", re.compile("[\u0370-\u03ff]")),
    ("hi", re.compile("[\u0900-\u097f]")),
    ("th", re.compile("[\u0e00-\u0e7f]")),
)


@dataclass(frozen=True, slots=True)
class Found:
    """What a classification went by: `words` as they stand in the brief from `start` to `end`, and what they say: `value` of `kind`."""

    kind: str
    value: str
    words: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Classification:
    """A brief, read by rules. What it does not say is "", 0 or empty.

    `subject`, `style`, `medium`, `mood` are categories of the vocabulary; `orientation` is "portrait", "landscape" or "square", `aspect`
    "WIDTH:HEIGHT", `size` "WIDTHxHEIGHT" in pixels; `text` is to be written in the picture; `count` pictures are wanted, at most 16;
    `safety` are categories worth a second look, no judgement; `language` is a code of ISO 639-1. `found` has what all this rests on.
    """

    brief: str
    subject: str = ""
    style: str = ""
    medium: str = ""
    mood: str = ""
    orientation: str = ""
    aspect: str = ""
    size: str = ""
    text: str = ""
    count: int = 0
    safety: tuple[str, ...] = ()
    language: str = ""
    found: tuple[Found, ...] = ()
    warnings: tuple[CallWarning, ...] = ()

    def all(self, kind: str) -> tuple[str, ...]:
        """Every category of a kind that the brief names, in its order."""
        return tuple(dict.fromkeys(found.value for found in self.found if found.kind == kind))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        told = asdict(self)
        return {
            **told,
            "safety": list(self.safety),
            "found": list(told["found"]),
            "warnings": list(told["warnings"]),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Classification:
        """What `to_dict` gave. Raises InvalidRequestError for anything else."""
        try:
            told = dict(values)
            told["safety"] = tuple(told["safety"])
            told["found"] = tuple(Found(**found) for found in told["found"])
            told["warnings"] = tuple(CallWarning(**warning) for warning in told["warnings"])
            made = cls(**told)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidRequestError(
                f"this is no saved classification: {type(error).__name__}", field="classification"
            ) from None
        check_text(made.brief, "brief", BRIEF_LIMIT)
        return made


def classify(
    brief: str,
    vocabulary: Vocabulary | Table | str | os.PathLike[str] | None = None,
    *,
    limit: int = BRIEF_LIMIT,
) -> Classification:
    """Read a brief of at most `limit` characters, in any language. `vocabulary` adds words: a mapping, or the path of a TOML file.

    Raises InvalidRequestError (field `brief`) for what is no text, empty, too long, or holds NUL or lone surrogates; other control
    characters become spaces, with a warning. Never refuses a brief for what it says.
    """
    known = load_vocabulary(vocabulary)
    check_text(brief, "brief", limit)
    cleaned = clean(brief)
    if not cleaned:
        raise InvalidRequestError("brief is empty", field="brief")
    warnings = () if cleaned == unicodedata.normalize("NFC", brief).strip() else (_CLEANED,)
    return _Reading(cleaned, known).classification(warnings)


_CLEANED = CallWarning("BRIEF_CLEANED", "control characters in the brief became spaces", "brief")
# Joiners are needed by emoji and by Persian and Indic spelling; other invisible characters only hide or turn round what stands there
_JOINERS = "\u200c\u200d"


def clean(text: str) -> str:
    """`text` in one spelling (NFC), without control and invisible formatting characters; lines stay."""
    text = unicodedata.normalize("NFC", text).replace("\r\n", "\n")
    if not text.isprintable():
        kept = (
            c
            if c.isprintable() or c in "\n\t" or c in _JOINERS or unicodedata.category(c) == "Zs"
            else " "
            for c in text
        )
        text = "".join(kept)
    return text.strip()


class _Reading:
    """One brief while it is read."""

    def __init__(self, brief: str, known: Vocabulary) -> None:
        self._brief = brief
        self._known = known
        self._words = words_of(brief)
        self._found: list[Found] = []
        self._matches = list(known.matches(self._words))
        self._hidden = bytearray(
            len(brief)
        )  # 1 where a text stands that is to be written: no words about the picture

    def classification(self, warnings: tuple[CallWarning, ...]) -> Classification:
        text = self._text()
        self._matches = [
            match for match in self._matches if match.kind == "safety" or not self._within(match)
        ]
        size, aspect = self._size(), self._aspect()
        orientation = self._orientation(size, aspect)
        counted, more = self._count()
        named = {kind: self._most(kind) for kind in ("subject", "style", "medium", "mood")}
        safety = tuple(
            dict.fromkeys(
                self._note(match).value for match in self._matches if match.kind == "safety"
            )
        )
        return Classification(
            self._brief,
            **named,
            orientation=orientation,
            aspect=aspect,
            size=size,
            text=text,
            count=counted,
            safety=safety,
            language=self._language(),
            found=tuple(
                sorted(self._found, key=lambda found: (found.start, found.kind))[:MOST_FOUND]
            ),
            warnings=warnings + more,
        )

    def _note(self, match: Match) -> Found:
        start, end = self._words[match.first].start, self._words[match.last - 1].end
        return self._noted(match.kind, match.category, start, end)

    def _noted(self, kind: str, value: str, start: int, end: int) -> Found:
        found = Found(kind, value, self._brief[start:end], start, end)
        self._found.append(found)
        return found

    def _redact(self, start: int, end: int) -> None:
        self._hidden[start:end] = b"\1" * (end - start)

    def _within(self, match: Match) -> bool:
        return bool(self._hidden[self._words[match.first].start])

    def _of(self, kind: str) -> Iterable[Match]:
        return (match for match in self._matches if match.kind == kind)

    def _most(self, kind: str) -> str:
        """The category named most often; of several, the first."""
        seen: dict[str, int] = {}
        for match in self._of(kind):
            self._note(match)
            seen[match.category] = seen.get(match.category, 0) + 1
        return max(seen, key=lambda category: seen[category]) if seen else ""

    def _text(self) -> str:
        """What is to be written in the picture: what stands behind a cue, else the first text in quotation marks."""
        quoted = [
            (found.span(), next(group for group in found.groups() if group is not None))
            for found in _QUOTED.finditer(self._brief)
        ]
        for span, _ in quoted:
            self._redact(*span)
        cue = next((match for match in self._of("text") if not self._within(match)), None)
        if cue is not None:
            start = self._words[cue.last - 1].end
            self._noted("cue", "text", self._words[cue.first].start, start)
            behind = next((one for one in quoted if one[0][0] >= start), None)
            if behind is not None and not self._brief[start : behind[0][0]].strip(" :=-\n\t"):
                quoted = [behind]
            elif (bare := self._behind(start)) is not None:
                self._redact(*bare[0])
                quoted = [bare]
        for span, text in quoted:
            if text.strip():
                self._noted("text", text.strip(), *span)
                return text.strip()
        return ""

    def _behind(self, start: int) -> tuple[tuple[int, int], str] | None:
        """A text without quotation marks: names and capitals that follow each other, else all up to the end of the clause."""
        window = self._brief[start : start + MOST_TEXT]
        offset = len(window) - len(window.lstrip(" :=-\n\t"))
        clause = _CLAUSE.split(window[offset:], maxsplit=1)[0]
        taken = words_of(clause)
        if not taken:
            return None
        end = _capitals(clause, taken) or taken[min(len(taken), _CUE_WORDS) - 1].end
        low = start + offset
        return (low, low + end), clause[:end].strip()

    def _size(self) -> str:
        for found in _SIZE.finditer(self._brief):
            width, height = int(found[1]), int(found[2])
            if min(width, height) >= 128 and max(width, height) <= 16_384:
                self._noted("size", f"{width}x{height}", *found.span())
                return f"{width}x{height}"
        return ""

    def _aspect(self) -> str:
        known = self._known.categories("aspect")
        for found in _ASPECT.finditer(self._brief):
            shape = f"{int(found[1])}:{int(found[2])}"
            if shape in known and not self._hidden[found.start()]:
                self._noted("aspect", shape, *found.span())
                return shape
        named = next(iter(self._of("aspect")), None)
        return "" if named is None else self._note(named).value

    def _orientation(self, size: str, aspect: str) -> str:
        """What a size or shape says goes over a word: "a landscape, 9:16" is upright."""
        said = [self._note(match).value for match in self._of("orientation")]
        shape = re.split("[x:]", size or aspect)
        if len(shape) == 2:
            width, height = int(shape[0]), int(shape[1])
            return "square" if width == height else "landscape" if width > height else "portrait"
        return said[0] if said else ""

    def _count(self) -> tuple[int, tuple[CallWarning, ...]]:
        nouns = {match.first for match in self._of("count")}
        numbers = {match.last: (int(match.category), match.first) for match in self._of("number")}
        numbers |= {
            at + 1: (int(word.folded), at)
            for at, word in enumerate(self._words)
            if _is_number(word)
        }
        for last in sorted(numbers):
            noun = next((at for at in (last, last + 1) if at in nouns), None)
            number, first = numbers[last]
            if noun is not None and number >= 1:
                count = min(number, MOST_COUNT)
                self._noted("count", str(count), self._words[first].start, self._words[noun].end)
                return count, () if count == number else (_clamped(number),)
        return 0, ()

    def _language(self) -> str:
        outside = "".join(
            c for c, hidden in zip(self._brief, self._hidden, strict=True) if not hidden
        )
        letters = [c for c in outside or self._brief if c.isalpha()]
        for language, script in _SCRIPTS:
            share = sum(1 for c in letters if script.match(c))
            if share and share * (20 if language in ("ja", "fa") else 3) >= len(letters):
                return language
        return self._by_small_words()

    def _by_small_words(self) -> str:
        """A word of four languages says a quarter of what one says that is of a single language."""
        languages: dict[int, list[str]] = {}
        for match in self._of("language"):
            languages.setdefault(match.first, []).append(match.category)
        scores: dict[str, Fraction] = {}
        for named in languages.values():
            for language in named:
                scores[language] = scores.get(language, Fraction(0)) + Fraction(1, len(named))
        leaders = [language for language, score in scores.items() if score == max(scores.values())]
        if len(leaders) == 1:
            return leaders[0]
        return (
            "en" if "en" in leaders else ""
        )  # "a" alone is a word of several languages, and English is what most briefs are in


def _is_number(word: Word) -> bool:
    return word.folded.isdecimal() and len(word.folded) <= 3


def _clamped(number: int) -> CallWarning:
    return CallWarning(
        "COUNT_CLAMPED", f"the brief wants {number} pictures; at most {MOST_COUNT} are made", "n"
    )


def _capitals(clause: str, words: Sequence[Word]) -> int:
    """Where a run of words with capitals (or numbers) ends that begins the clause; 0 when it begins with none."""
    end = 0
    for word in words:
        first = clause[word.start]
        if not (first.isupper() or first.isdecimal()):
            break
        end = word.end
    return end
