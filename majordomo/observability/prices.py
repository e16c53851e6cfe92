"""A price of the caller's own, and what comes out of one."""

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
    """An amount of money, exact. `source` says whose prices: "yours", or a list with its version or date."""

    amount: Decimal
    source: str
    currency: str = "USD"


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars; None is no price of that kind, 0 is free.

    Tokens per million: `input_per_million` and `output_per_million`, and where they cost something else, those read from a cache
    (`cached_`), written to it (`cache_write_`), of images and of sound. `per_image`, `per_megapixel` (a million pixels drawn),
    `per_second` of the backend's work where it tells it, `per_request`. What is given is added up. Raises ConfigurationError for what is
    no number from 0.
    """

    input_per_million: Number | None = None
    output_per_million: Number | None = None
    cached_per_million: Number | None = None
    cache_write_per_million: Number | None = None
    image_input_per_million: Number | None = None
    image_output_per_million: Number | None = None
    audio_input_per_million: Number | None = None
    audio_output_per_million: Number | None = None
    per_image: Number | None = None
    per_megapixel: Number | None = None
    per_second: Number | None = None
    per_request: Number | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            if (value := getattr(self, item.name)) is not None:
                object.__setattr__(self, item.name, _money(value, item.name))

    def cost_of(self, taken: Billable) -> Decimal | None:
        """What this costs; None when a count that this price needs is not known, or nothing here prices the call."""
        parts = [part for part in (self._tokens(taken), *self._pieces(taken)) if part is not None]
        total = sum(parts, Decimal(0))
        return total if parts and total.is_finite() else None

    def _pieces(self, taken: Billable) -> list[Decimal | None]:
        return [
            _times(self.per_image, len(taken.sizes)),
            _times(self.per_megapixel, Decimal(taken.pixels) / MILLION),
            _times(self.per_second, taken.seconds),
            _times(self.per_request, 1),
        ]

    def _tokens(self, taken: Billable) -> Decimal | None:
        """None where no kind of token has a price; UNKNOWN where a count is missing, or tokens without a price are left."""
        rates = [
            getattr(self, item.name) for item in fields(self) if item.name.endswith("_per_million")
        ]
        if all(rate is None for rate in rates):
            return None
        read = _side(
            taken.input_tokens,
            self.input_per_million,
            [
                (
                    self.cached_per_million,
                    taken.cached_tokens or 0,
                ),  # no discount is told of: none is counted
                (self.cache_write_per_million, taken.cache_write_tokens or 0),
                (self.image_input_per_million, taken.image_input_tokens),
                (self.audio_input_per_million, taken.audio_input_tokens),
            ],
        )
        written = Decimal(0)
        if taken.writes:
            special = [
                (self.image_output_per_million, taken.image_output_tokens),
                (self.audio_output_per_million, taken.audio_output_tokens),
            ]
            written = _side(taken.output_tokens, self.output_per_million, special)
        return read + written


UNKNOWN = Decimal("Infinity")  # what is added to it is unknown as well


def _side(
    tokens: int | None, rate: Number | None, special: Sequence[tuple[Number | None, int | None]]
) -> Decimal:
    """The tokens of one direction: those of a kind with a rate of its own, and the rest."""
    if tokens is None:
        return UNKNOWN
    money, rest = Decimal(0), tokens
    for own, count in special:
        if own is None:
            continue
        if count is None:
            if own == rate or not tokens:
                continue
            return UNKNOWN
        money += Decimal(own) * count / MILLION
        rest -= count
    if rest < 0 or (rest and rate is None):
        return UNKNOWN
    return money + Decimal(rate or 0) * rest / MILLION


def _times(rate: Number | None, count: float | Decimal | None) -> Decimal | None:
    if rate is None:
        return None
    return UNKNOWN if count is None else Decimal(rate) * Decimal(str(count))


def _money(value: object, name: str) -> Decimal:
    try:
        money = (
            Decimal(str(value))
            if isinstance(value, (Decimal, int, float, str)) and not isinstance(value, bool)
            else None
        )
    except InvalidOperation:
        money = None
    if money is None or not money.is_finite() or money < 0:
        raise ConfigurationError(
            f"{name} is a number of US dollars from 0", details={"field": name}
        )
    return money


Prices = Mapping[str, Price]


def checked_prices(prices: object) -> Prices:
    """Raises ConfigurationError (field `prices`) for anything but a mapping of "provider/model" to Price."""
    if isinstance(prices, Mapping) and all(
        isinstance(key, str) and "/" in key and isinstance(prices[key], Price) for key in prices
    ):
        return prices
    raise ConfigurationError(
        'prices is a mapping of "provider/model" to Price', details={"field": "prices"}
    )


def own_price(prices: Prices, taken: Billable) -> Price | None:
    """The price under one of the call's names: one that is written out first, then the first pattern that fits."""
    names = [f"{taken.provider}/{model}" for model in taken.models]
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
