"""List prices of images that are paid for by the image, and so stand in no list of tokens."""

from __future__ import annotations

from decimal import Decimal

from majordomo.observability.billable import Billable
from majordomo.observability.prices import Cost

# OpenAI's price page (openai.com/pricing), as of this day; models that are paid for by the token are not here
DATED = "2023-12-25"
OPENAI = "https://api.openai.com"
WIDE, HIGH, SQUARE = (1792, 1024), (1024, 1792), (1024, 1024)
PRICES: dict[str, dict[tuple[str, tuple[int, int]], str]] = {
    "dall-e-3": {
        ("standard", SQUARE): "0.040",
        ("standard", WIDE): "0.080",
        ("standard", HIGH): "0.080",
        ("hd", SQUARE): "0.080",
        ("hd", WIDE): "0.120",
        ("hd", HIGH): "0.120",
    },
    "dall-e-2": {
        ("standard", SQUARE): "0.020",
        ("standard", (512, 512)): "0.018",
        ("standard", (256, 256)): "0.016",
    },
}
ONE_QUALITY = {"dall-e-2"}


def image_cost(taken: Billable) -> Cost | None:
    """None for a model, size or quality that has no price here, and where the quality asked for is not known but matters."""
    at_home = taken.address == OPENAI if taken.address is not None else taken.provider == "openai"
    model = next((model for model in taken.models if model in PRICES), None)
    if not at_home or model is None or not taken.sizes:
        return None
    # Unset, dall-e-3 draws at standard quality; "auto" is the server's choice, and not told
    quality = "standard" if model in ONE_QUALITY or taken.quality == "" else taken.quality
    amounts = [PRICES[model].get((quality or "", size)) for size in taken.sizes]
    if None in amounts:
        return None
    return Cost(
        sum((Decimal(amount) for amount in amounts if amount is not None), Decimal(0)),
        f"openai.com/pricing {DATED}",
    )
