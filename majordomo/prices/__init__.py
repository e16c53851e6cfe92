"""What a call costs: prices are data with a date or the caller's own, and an unknown price is None, never 0."""

from majordomo.prices.price import Cost, Price
from majordomo.prices.reckoning import cost

__all__ = ["Cost", "Price", "cost"]
