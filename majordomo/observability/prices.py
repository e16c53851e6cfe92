"""The user's own prices, and the cost that results from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal, InvalidOperation
from fnmatch import fnmatchcase

from majordomo.errors import ConfigurationError
from majordomo.observability.billable import Billable

MILLION = Decimal(1_000_000)
Number = Decimal | int | float | str


@dataclass(frozen=True, slots=True)
class Cost:
    """An exact amount of money."""

    amount: Decimal
    """The amount in `currency`."""
    source: str
    """The source of the prices: "yours", or a list with its version or date."""
    currency: str = "USD"
    """The ISO 4217 code of the currency."""


@dataclass(frozen=True, slots=True)
class Price:
    """The prices of a model in US dollars.

    The cost of a call is the sum over all prices that are set. None means that there is no such
    price; 0 means free.

    Raises:
        ConfigurationError: A price is not a number from 0.
    """

    input_per_million: Number | None = None
    """Price of a million input tokens."""
    output_per_million: Number | None = None
    """Price of a million output tokens."""
    cached_per_million: Number | None = None
    """Price of a million input tokens read from a cache, if it differs."""
    cache_write_per_million: Number | None = None
    """Price of a million input tokens written to a cache, if it differs."""
    image_input_per_million: Number | None = None
    """Price of a million input tokens of images, if it differs."""
    image_output_per_million: Number | None = None
    """Price of a million output tokens of images, if it differs."""
    audio_input_per_million: Number | None = None
    """Price of a million input tokens of audio, if it differs."""
    audio_output_per_million: Number | None = None
    """Price of a million output tokens of audio, if it differs."""
    per_image: Number | None = None
    """Price of an image."""
    per_megapixel: Number | None = None
    """Price of a million generated pixels."""
    per_second: Number | None = None
    """Price of a second of the backend's work, where the backend reports it."""
    per_request: Number | None = None
    """Price of a request."""

    def __post_init__(self) -> None:
        for item in fields(self):
            if (value := getattr(self, item.name)) is not None:
                object.__setattr__(self, item.name, _checked_amount(value, item.name))

    def cost_of(self, billable: Billable) -> Decimal | None:
        """Return the cost of a call in US dollars.

        None means that a quantity that this price needs is unknown, or that no price applies.
        """
        amounts = [
            amount
            for amount in (
                self._token_cost(billable),
                _multiply(self.per_image, len(billable.sizes)),
                _multiply(self.per_megapixel, Decimal(billable.pixels) / MILLION),
                _multiply(self.per_second, billable.seconds),
                _multiply(self.per_request, 1),
            )
            if amount is not None
        ]
        total = sum(amounts, Decimal(0))
        return total if amounts and total.is_finite() else None

    def _token_cost(self, billable: Billable) -> Decimal | None:
        """Return the cost of all tokens.

        None means that no token has a price. UNKNOWN means that a count is missing, or that tokens
        without a price are left.
        """
        rates = [
            getattr(self, item.name) for item in fields(self) if item.name.endswith("_per_million")
        ]
        if all(rate is None for rate in rates):
            return None
        input_cost = _direction_cost(
            billable.input_tokens,
            self.input_per_million,
            [
                # A backend that reports no cached tokens grants no discount.
                (self.cached_per_million, billable.cached_tokens or 0),
                (self.cache_write_per_million, billable.cache_write_tokens or 0),
                (self.image_input_per_million, billable.image_input_tokens),
                (self.audio_input_per_million, billable.audio_input_tokens),
            ],
        )
        if not billable.bills_output:
            return input_cost
        output_cost = _direction_cost(
            billable.output_tokens,
            self.output_per_million,
            [
                (self.image_output_per_million, billable.image_output_tokens),
                (self.audio_output_per_million, billable.audio_output_tokens),
            ],
        )
        return input_cost + output_cost


# A sum with an unknown amount is infinite, and so recognized as unknown.
UNKNOWN = Decimal("Infinity")


def _direction_cost(
    tokens: int | None,
    rate: Number | None,
    special_rates: Sequence[tuple[Number | None, int | None]],
) -> Decimal:
    """Return the cost of input or output tokens.

    `special_rates` are the rate and the count of each kind of token that may have a rate of its
    own; the remaining tokens cost `rate`.
    """
    if tokens is None:
        return UNKNOWN
    amount, remaining = Decimal(0), tokens
    for special_rate, count in special_rates:
        if special_rate is None:
            continue
        if count is None:
            if special_rate == rate or not tokens:
                continue
            return UNKNOWN
        amount += Decimal(special_rate) * count / MILLION
        remaining -= count
    if remaining < 0 or (remaining and rate is None):
        return UNKNOWN
    return amount + Decimal(rate or 0) * remaining / MILLION


def _multiply(rate: Number | None, quantity: float | Decimal | None) -> Decimal | None:
    """Return rate times quantity; None without a rate, UNKNOWN without a quantity."""
    if rate is None:
        return None
    return UNKNOWN if quantity is None else Decimal(rate) * Decimal(str(quantity))


def _checked_amount(value: object, name: str) -> Decimal:
    try:
        amount = (
            Decimal(str(value))
            if isinstance(value, (Decimal, int, float, str)) and not isinstance(value, bool)
            else None
        )
    except InvalidOperation:
        amount = None
    if amount is None or not amount.is_finite() or amount < 0:
        raise ConfigurationError(
            f"{name} must be a number of US dollars from 0; got {value!r}", details={"field": name}
        )
    return amount


Prices = Mapping[str, Price]


def checked_prices(prices: object) -> Prices:
    """Return `prices`.

    Raises ConfigurationError (field `prices`) for anything but a mapping of "provider/model" to
    Price.
    """
    if isinstance(prices, Mapping) and all(
        isinstance(key, str) and "/" in key and isinstance(prices[key], Price) for key in prices
    ):
        return prices
    raise ConfigurationError(
        'prices must be a mapping of "provider/model" to Price', details={"field": "prices"}
    )


def find_price(prices: Prices, billable: Billable) -> Price | None:
    """Return the price under one of the call's names.

    An exact name has precedence over patterns; the first matching pattern is used.
    """
    names = [f"{billable.provider}/{model}" for model in billable.models]
    for name in names:
        if name in prices:
            return prices[name]
    return next(
        (
            price
            for pattern, price in prices.items()
            if any(fnmatchcase(name, pattern) for name in names)
        ),
        None,
    )
