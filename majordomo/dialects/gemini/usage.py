"""Gemini's counts, for chat and images: `usageMetadata`, and within it a list of tokens for each modality."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from majordomo.dialects.chat_accumulator import as_objects, as_token_count


def usage_by_modality(usage: Mapping[str, Any], *lists: str) -> Mapping[str, int] | None:
    """Tokens by modality (TEXT, IMAGE, AUDIO, ...), of these lists together; None when the server gives none of them.

    "zero and false fields are omitted": where there is a list, a modality that is missing has none.
    """
    given = [usage[name] for name in lists if isinstance(usage.get(name), list)]
    if not given:
        return None
    tokens: dict[str, int] = {}
    for item in (item for items in given for item in as_objects(items)):
        name = str(item.get("modality"))
        tokens[name] = tokens.get(name, 0) + (as_token_count(item.get("tokenCount")) or 0)
    return tokens


def tokens_by_modality(modalities: Mapping[str, int] | None, *names: str) -> int | None:
    """Tokens of these modalities, None when nothing is told."""
    return None if modalities is None else sum(modalities.get(name, 0) for name in names)
