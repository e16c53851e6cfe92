"""Write prompts by rules: the brief, rephrased in the style of the target's family."""

from __future__ import annotations

import re

from majordomo.errors import CallWarning, plain_text
from majordomo.studio.classifier import Classification
from majordomo.studio.plan import NamedPrompt
from majordomo.studio.targets import Target

_NEGATIVE_PROMPT = "blurry, low quality, jpeg artifacts, watermark, signature"
# Categories whose name is not the word that a prompt uses.
_PROMPT_WORDS = {"photographic": "photograph"}
# Kinds of findings that settings or text already express.
_REMOVED_KINDS = ("count", "size", "aspect", "cue", "text")
# An introduction such as "please draw me" is about the task, not about the image.
_INTRODUCTION = re.compile(
    r"(?i)^\s*(?:please\s+)?(?:(?:can|could)\s+you\s+)?"
    r"(?:draw|paint|make|create|generate|design)\s+(?:me\s+)?"
)


def write_prompts(
    classification: Classification, target: Target, overlay: bool = False
) -> tuple[NamedPrompt, list[CallWarning]]:
    """Return one prompt and warnings about it.

    `overlay` says that the text is written over the image later, so the image must not have any.
    """
    warnings = []
    subject, text = _subject(classification), classification.text
    if text and not overlay and not target.renders_text:
        warnings.append(text_warning(target))
    writes_text = bool(text) and not overlay and target.renders_text
    prompt = _tags(classification, subject) if target.tags else _prose(classification, subject)
    if writes_text:
        prompt += f', with the text "{text}"' if target.tags else f' It carries the text "{text}".'
    negative_prompt = ""
    if target.negative_prompt:
        negative_prompt = _NEGATIVE_PROMPT
        if text and not writes_text:
            negative_prompt += ", text, letters"
    return NamedPrompt(
        "main",
        plain_text(prompt, target.max_prompt_characters)
        or classification.brief[: target.max_prompt_characters],
        negative_prompt,
    ), warnings


def text_warning(target: Target) -> CallWarning:
    """Return the warning that the family cannot generate the text that the brief asks for."""
    return CallWarning(
        "TEXT_NOT_DRAWN",
        f"{target.name} cannot generate readable text; use an overlay to write it over the image",
        "text",
    )


def _subject(classification: Classification) -> str:
    """Return the brief without what settings already express: count, size, shape and text."""
    brief, kept = classification.brief, []
    removed = [
        found
        for found in classification.found
        if found.kind in _REMOVED_KINDS or _is_only_a_shape(found.kind, found.text)
    ]
    position = 0
    for found in sorted(removed, key=lambda found: found.start):
        if found.start >= position:
            kept.append(brief[position : found.start])
            position = found.end
    kept.append(brief[position:])
    subject = _INTRODUCTION.sub("", plain_text("".join(kept)))
    subject = re.sub(r"^\s*(?:of|von|de|di)\s+", "", subject)
    return re.sub(r"\s*,(?:\s*,)+", ",", subject).strip(" ,;.:-") or brief


def _is_only_a_shape(kind: str, text: str) -> bool:
    """Return whether an orientation cannot also be the subject, as "landscape" can."""
    return kind == "orientation" and text.casefold() not in (
        "landscape",
        "panorama",
        "paysage",
        "banner",
    )


def _look(classification: Classification) -> list[str]:
    """Return style, medium and mood of the brief, in that order, in English."""
    categories = [
        *classification.all("style"),
        *classification.all("medium"),
        *classification.all("mood"),
    ]
    return [_PROMPT_WORDS.get(category, category) for category in categories]


def _tags(classification: Classification, subject: str) -> str:
    folded = subject.casefold()
    added = [word for word in _look(classification) if word not in folded]
    return ", ".join([subject, *added, "highly detailed", "good composition"])


def _prose(classification: Classification, subject: str) -> str:
    folded = subject.casefold()
    added = [word for word in _look(classification) if word not in folded]
    sentence = subject[:1].upper() + subject[1:] + "."
    return f"{sentence} {', '.join(added).capitalize()}." if added else sentence
