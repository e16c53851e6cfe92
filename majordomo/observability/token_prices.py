"""List prices of tokens: the data that the package genai-prices carries. Needs the extra `prices`; nothing here uses a network."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from majordomo.observability.billable import Billable
from majordomo.observability.prices import Cost

# Where only a provider's name is known, these are at home where their name says
HOMES = {"openai": "openai", "anthropic": "anthropic", "gemini": "google"}
_FIELDS = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cached_tokens": "cache_read_tokens",
    "cache_write_tokens": "cache_write_tokens",
    "cache_write_1h_tokens": "cache_write_1h_tokens",
    "image_input_tokens": "input_image_tokens",
    "audio_input_tokens": "input_audio_tokens",
    "image_output_tokens": "output_image_tokens",
    "audio_output_tokens": "output_audio_tokens",
}
_SPLITS = (  # a count that must be known where it has a price of its own; that price, and the one of the rest
    ("image_input_tokens", "input_image_mtok", "input_mtok", "input_tokens"),
    ("audio_input_tokens", "input_audio_mtok", "input_mtok", "input_tokens"),
    ("image_output_tokens", "output_image_mtok", "output_mtok", "output_tokens"),
    ("audio_output_tokens", "output_audio_mtok", "output_mtok", "output_tokens"),
)
_library: Any = None


def load() -> bool:
    """Read the list, which takes a quarter of a second, now. Whether there is one."""
    global _library
    if _library is None:
        try:
            import genai_prices  # an extra, and slow to load
            import genai_prices.data
        except ImportError:
            _library = False
        else:
            _library = genai_prices
    return bool(_library)


def listed_cost(taken: Billable) -> Cost | None:
    """By the backend's address where it is known: a name may stand for a server of one's own. None for what the list does not hold."""
    where = (
        {"provider_api_url": taken.address}
        if taken.address is not None
        else {"provider_id": HOMES.get(taken.provider)}
    )
    if (
        taken.input_tokens is None
        or (taken.writes and taken.output_tokens is None)
        or not all(where.values())
        or not load()
    ):
        return None
    counts = {
        theirs: count
        for ours, theirs in _FIELDS.items()
        if (count := getattr(taken, ours)) is not None
    }
    when = datetime.fromtimestamp(taken.began, UTC) if taken.began is not None else None
    for model in taken.models:
        try:
            found = _library.calc_price(
                _library.Usage(**counts), model, genai_request_timestamp=when, **where
            )
        except (LookupError, ValueError):  # no such model; or counts that contradict each other
            continue
        if any(_is_missing(taken, found.model_price, *split) for split in _SPLITS):
            return None
        return Cost(found.total_price, f"genai-prices {_library.__version__}")
    return None


def _is_missing(taken: Billable, price: Any, count: str, own: str, rest: str, whole: str) -> bool:
    rate = getattr(price, own, None)
    return (
        rate is not None
        and rate != getattr(price, rest, None)
        and bool(getattr(taken, whole))
        and getattr(taken, count) is None
    )
