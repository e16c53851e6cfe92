"""List prices of models that are paid for by the image and so are in no list of token prices."""

from __future__ import annotations

from decimal import Decimal

from majordomo.observability.billable import Billable
from majordomo.observability.prices import Cost

# The day of OpenAI's price page (openai.com/pricing). Models that are paid for by the token are not
# listed here.
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
# Models without a choice of quality.
SINGLE_QUALITY_MODELS = {"dall-e-2"}


def image_cost(billable: Billable) -> Cost | None:
    """Return the cost of the images.

    None means that the model, size or quality has no price here, or that the quality is unknown and
    matters.
    """
    is_openai = (
        billable.address == OPENAI
        if billable.address is not None
        else billable.provider == "openai"
    )
    model = next((model for model in billable.models if model in PRICES), None)
    if not is_openai or model is None or not billable.sizes:
        return None
    # The default quality of dall-e-3 is "standard". "auto" lets the server choose, and the server
    # does not report its choice.
    quality = (
        "standard" if model in SINGLE_QUALITY_MODELS or billable.quality == "" else billable.quality
    )
    amounts = [PRICES[model].get((quality or "", size)) for size in billable.sizes]
    if None in amounts:
        return None
    return Cost(
        sum((Decimal(amount) for amount in amounts if amount is not None), Decimal(0)),
        f"openai.com/pricing {DATED}",
    )
