"""From an answer to money."""

from __future__ import annotations

from majordomo.observability import Call
from majordomo.observability.billable import PricedOutput, billable_from
from majordomo.observability.image_prices import image_cost
from majordomo.observability.prices import Cost, Prices, checked_prices, own_price
from majordomo.observability.token_prices import listed_cost


def cost(
    answer: PricedOutput, prices: Prices | None = None, *, call: Call | None = None
) -> Cost | None:
    """What a reply, result or embeddings (or an observer's outcome, with its `call`) cost; None where any part is unknown, never 0.

    `prices` are yours, by "provider/model"; `*` stands for anything, a name written out goes before patterns, and yours before any list.
    Then come the list prices of genai-prices (extra `prices`) and a small list of models paid for by the image. `call`, what an observer
    was told, makes it surer: list prices then count for the backend at that address only, and the quality of images is known.

    List prices are a vendor's, before taxes and without anybody's discounts; tokens that a backend does not say were cached are priced in
    full. A sum of several answers (a tool loop's) is priced as one. Raises ConfigurationError for prices that are none.
    """
    taken = billable_from(answer, call)
    if prices is not None and (own := own_price(checked_prices(prices), taken)) is not None:
        amount = own.cost_of(taken)
        return None if amount is None else Cost(amount, "yours")
    return image_cost(taken) or listed_cost(taken)
