"""Prompts without a chat model: the brief itself, said as the target's family likes it."""

from __future__ import annotations

import re

from majordomo.errors import CallWarning, plain_text
from majordomo.studio.classifier import Classification
from majordomo.studio.plan import NamedPrompt
from majordomo.studio.targets import Target

_NEGATIVE = "blurry, low quality, jpeg artifacts, watermark, signature"
_MEDIUM = {"photographic": "photograph"}
_SAID = ("count", "size", "aspect", "cue", "text")
# What an order says to the one who draws, not about the picture
_ORDER = re.compile(
    r"(?i)^\s*(?:please\s+)?(?:(?:can|could)\s+you\s+)?(?:draw|paint|make|create|generate|design)\s+(?:me\s+)?"
)


def write_prompts(
    classification: Classification, target: Target, overlay: bool = False
) -> tuple[NamedPrompt, list[CallWarning]]:
    """One prompt. `overlay`: the text is written over the picture later, so that the picture is to have none."""
    warnings = []
    subject, text = _subject(classification), classification.text
    if text and not overlay and not target.writes:
        warnings.append(not_written(target))
    writes = bool(text) and not overlay and target.writes
    words = _tags(classification, subject) if target.tags else _prose(classification, subject)
    if writes:
        words += f', with the text "{text}"' if target.tags else f' It carries the text "{text}".'
    negative = (
        _NEGATIVE + (", text, letters" if text and not writes else "") if target.negative else ""
    )
    return NamedPrompt(
        "main",
        plain_text(words, target.longest) or classification.brief[: target.longest],
        negative,
    ), warnings


def not_written(target: Target) -> CallWarning:
    return CallWarning(
        "TEXT_NOT_DRAWN",
        f"{target.name} draws no readable text: let it be written over the picture (overlay)",
        "text",
    )


def _subject(classification: Classification) -> str:
    """The brief without what the settings say already: its numbers, its shape, its text."""
    brief, said = classification.brief, []
    cut = [
        found
        for found in classification.found
        if found.kind in _SAID or _only_a_shape(found.kind, found.words)
    ]
    at = 0
    for found in sorted(cut, key=lambda found: found.start):
        if found.start >= at:
            said.append(brief[at : found.start])
            at = found.end
    said.append(brief[at:])
    text = _ORDER.sub("", plain_text("".join(said)))
    text = re.sub(r"^\s*(?:of|von|de|di)\s+", "", text)
    return re.sub(r"\s*,(?:\s*,)+", ",", text).strip(" ,;.:-") or brief


def _only_a_shape(kind: str, words: str) -> bool:
    """Words like "portrait" may also be what is shown: they are left to the picture where they could be."""
    return kind == "orientation" and words.casefold() not in (
        "landscape",
        "panorama",
        "paysage",
        "banner",
    )


def _named(classification: Classification) -> list[str]:
    """Style, medium and mood that the brief names, in that order, as words of English."""
    said = [
        *classification.all("style"),
        *classification.all("medium"),
        *classification.all("mood"),
    ]
    return [_MEDIUM.get(word, word) for word in said]


def _tags(classification: Classification, subject: str) -> str:
    known = subject.casefold()
    more = [word for word in _named(classification) if word not in known]
    return ", ".join([subject, *more, "highly detailed", "good composition"])


def _prose(classification: Classification, subject: str) -> str:
    known = subject.casefold()
    more = [word for word in _named(classification) if word not in known]
    sentence = subject[:1].upper() + subject[1:] + "."
    return f"{sentence} {', '.join(more).capitalize()}." if more else sentence
