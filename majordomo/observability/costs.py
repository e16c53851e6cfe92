"""The cost of a call."""

from __future__ import annotations

from majordomo.observability import Call
from majordomo.observability.billable import PricedOutput, billable_from
from majordomo.observability.image_prices import image_cost
from majordomo.observability.prices import Cost, Prices, checked_prices, find_price
from majordomo.observability.token_prices import listed_cost


def cost(
    output: PricedOutput, prices: Prices | None = None, *, call: Call | None = None
) -> Cost | None:
    """Return what a call cost; None, never 0, where any part of it is unknown.

    Your own prices are used first, then the list prices of genai-prices (extra `prices`) and a
    small list of models that are paid for by the image. List prices are the vendor's, before taxes
    and without discounts. Tokens that the backend does not report as cached are priced in full. The
    sum of several replies, as of a tool loop, is priced as one.

    Args:
        output: A reply, result or embeddings, or the CallResult that an observer received.
        prices: Your own prices by "provider/model". `*` matches anything; an exact name has
            precedence over patterns.
        call: The Call that an observer received. It makes the result more reliable: list prices are
            then used only for the vendor's own address, and the image quality is known.

    Raises:
        ConfigurationError: `prices` is not a mapping of "provider/model" to Price.

    Example:
        ```python
        reply = await chat.generate("Hello")
        spent = md.cost(reply, {"ollama/*": md.Price(per_second="0.0001")})
        ```
    """
    billable = billable_from(output, call)
    if prices is not None:
        price = find_price(checked_prices(prices), billable)
        if price is not None:
            amount = price.cost_of(billable)
            return None if amount is None else Cost(amount, "yours")
    return image_cost(billable) or listed_cost(billable)
