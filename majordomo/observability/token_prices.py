"""List prices of tokens, from the data in the package genai-prices.

Needs the extra `prices`. There is no network access here.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from majordomo.observability.billable import Billable
from majordomo.observability.prices import Cost

# When only the name of a provider is known, the name means the vendor's own service.
PROVIDER_IDS = {"openai": "openai", "anthropic": "anthropic", "gemini": "google"}
# Our names of token counts -> those of genai-prices.
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
# A count that must be known where its tokens have another price than the rest: the count, its
# price, the price of the rest, and the total count.
_SPECIAL_COUNTS = (
    ("image_input_tokens", "input_image_mtok", "input_mtok", "input_tokens"),
    ("audio_input_tokens", "input_audio_mtok", "input_mtok", "input_tokens"),
    ("image_output_tokens", "output_image_mtok", "output_mtok", "output_tokens"),
    ("audio_output_tokens", "output_audio_mtok", "output_mtok", "output_tokens"),
)
_library: Any = None


def load_price_list() -> bool:
    """Load the price list, which takes a quarter of a second; return whether it is installed."""
    global _library
    if _library is None:
        try:
            # Imported here because it is optional and slow.
            import genai_prices
            import genai_prices.data
        except ImportError:
            _library = False
        else:
            _library = genai_prices
    return bool(_library)


def listed_cost(billable: Billable) -> Cost | None:
    """Return the cost by list prices; None when the list has no price for the call.

    The backend's address decides where it is known, because a provider name may be used for a
    server of your own.
    """
    vendor = (
        {"provider_api_url": billable.address}
        if billable.address is not None
        else {"provider_id": PROVIDER_IDS.get(billable.provider)}
    )
    if (
        billable.input_tokens is None
        or (billable.bills_output and billable.output_tokens is None)
        or not all(vendor.values())
        or not load_price_list()
    ):
        return None
    counts = {
        library_name: count
        for name, library_name in _FIELDS.items()
        if (count := getattr(billable, name)) is not None
    }
    started_at = (
        datetime.fromtimestamp(billable.started_at, UTC)
        if billable.started_at is not None
        else None
    )
    for model in billable.models:
        try:
            price = _library.calc_price(
                _library.Usage(**counts), model, genai_request_timestamp=started_at, **vendor
            )
        # The model is not listed, or the counts contradict each other.
        except (LookupError, ValueError):
            continue
        if any(_is_count_missing(billable, price.model_price, *names) for names in _SPECIAL_COUNTS):
            return None
        return Cost(price.total_price, f"genai-prices {_library.__version__}")
    return None


def _is_count_missing(
    billable: Billable, model_price: Any, count: str, special: str, regular: str, total: str
) -> bool:
    """Return whether tokens have a special price but their count is unknown."""
    rate = getattr(model_price, special, None)
    return (
        rate is not None
        and rate != getattr(model_price, regular, None)
        and bool(getattr(billable, total))
        and getattr(billable, count) is None
    )
