"""Gemini's `usageMetadata`: token counts for chat and images, with a list per modality."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from majordomo.dialects.chat_accumulator import as_objects, as_token_count


def usage_by_modality(usage: Mapping[str, Any], *list_names: str) -> Mapping[str, int] | None:
    """Return the tokens by modality (TEXT, IMAGE, AUDIO, ...), summed over the named lists.

    None when the server sends none of the lists. "zero and false fields are omitted": where there
    is a list, a modality that is missing has no tokens.
    """
    lists = [usage[name] for name in list_names if isinstance(usage.get(name), list)]
    if not lists:
        return None
    tokens: dict[str, int] = {}
    for item in (item for items in lists for item in as_objects(items)):
        modality = str(item.get("modality"))
        tokens[modality] = tokens.get(modality, 0) + (as_token_count(item.get("tokenCount")) or 0)
    return tokens


def tokens_by_modality(modalities: Mapping[str, int] | None, *names: str) -> int | None:
    """Return the tokens of the named modalities, None when the server reports no modalities."""
    return None if modalities is None else sum(modalities.get(name, 0) for name in names)
