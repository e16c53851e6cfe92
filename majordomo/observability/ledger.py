"""A ledger: the usage and cost of calls, summed while they happen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import Any

from majordomo import imagegen
from majordomo.concurrency.fork_safety import Lock
from majordomo.errors import MajordomoError
from majordomo.observability import Call, CallResult, Observer, RetryAttempt
from majordomo.observability.costs import cost
from majordomo.observability.prices import Price, checked_prices
from majordomo.observability.token_prices import load_price_list
from majordomo.validation import check_number

MAX_ENTRIES = 10_000


@dataclass(frozen=True, slots=True)
class Account:
    """Sums over calls. Add accounts with `+` to combine them.

    Sums of values that backends report cover only what was reported, so they are lower bounds.
    """

    calls: int = 0
    """Number of calls that started."""
    failures: int = 0
    """Number of calls that failed."""
    cancelled: int = 0
    """Number of calls that were cancelled; the others finished or are still running."""
    retries: int = 0
    """Number of attempts that were repeated."""
    input_tokens: int = 0
    """Input tokens, including cached ones."""
    output_tokens: int = 0
    """Output tokens."""
    cached_tokens: int = 0
    """Input tokens that were read from a cache."""
    cache_write_tokens: int = 0
    """Input tokens that were written to a cache."""
    reasoning_tokens: int = 0
    """Output tokens of the model's reasoning."""
    text_input_tokens: int = 0
    """Input tokens of text."""
    image_input_tokens: int = 0
    """Input tokens of images."""
    audio_input_tokens: int = 0
    """Input tokens of audio."""
    text_output_tokens: int = 0
    """Output tokens of text."""
    image_output_tokens: int = 0
    """Output tokens of images."""
    audio_output_tokens: int = 0
    """Output tokens of audio."""
    uncounted: int = 0
    """Number of finished calls without token counts; image calls that count no tokens excluded."""
    images: int = 0
    """Number of images that calls returned."""
    pixels: int = 0
    """Number of pixels of these images."""
    seconds: float = 0.0
    """Seconds that backends worked, where they report it; for a local one, its GPU time."""
    waited: float = 0.0
    """Seconds that calls took, measured here: queueing, retries and network time included."""
    money: Decimal = Decimal(0)
    """US dollars of the calls whose price is known."""
    unpriced: int = 0
    """Number of finished calls without a known price."""

    def __add__(self, other: Account) -> Account:
        return Account(*(getattr(self, name) + getattr(other, name) for name in _FIELD_NAMES))

    @property
    def at_least(self) -> bool:
        """Whether more may have been spent than `money`.

        That is so when a call has no known price, failed, or was cancelled.
        """
        return bool(self.unpriced or self.failures or self.cancelled)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values. `money` is text, so that it stays exact."""
        return {
            name: str(value) if name == "money" else value
            for name in _FIELD_NAMES
            for value in (getattr(self, name),)
        }


_FIELD_NAMES = tuple(item.name for item in fields(Account))
_TOKEN_FIELDS = tuple(name for name in _FIELD_NAMES if name.endswith("_tokens"))


@dataclass(frozen=True, slots=True)
class LedgerSnapshot:
    """The content of a ledger at one moment."""

    total: Account
    """The sums over all calls."""
    by_user: Mapping[str, Account]
    """The sums by the `user_id` of the requests; "" for requests without one."""
    by_model: Mapping[str, Account]
    """The sums by "provider/model", with the model as it was requested."""
    by_provider: Mapping[str, Account]
    """The sums by provider, without the models in `other_models`."""
    other_users: Account = field(default_factory=Account)
    """The sums over users beyond the maximum number of entries."""
    other_models: Account = field(default_factory=Account)
    """The sums over models beyond the maximum number of entries."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        tables = {
            name: {key: value.to_dict() for key, value in getattr(self, name).items()}
            for name in ("by_user", "by_model", "by_provider")
        }
        others = {
            name: getattr(self, name).to_dict() for name in ("total", "other_users", "other_models")
        }
        return {"currency": "USD", **others, **tables}

    def to_json(self) -> str:
        """Return the snapshot as JSON text."""
        return json.dumps(self.to_dict(), ensure_ascii=False)


class Ledger(Observer):
    """An observer that sums every call: in total, by user, by model and by provider.

    It can be shared between threads.

    Args:
        prices: Your own prices, as for `majordomo.cost`.
        max_entries: Maximum number of users, and of models, with sums of their own, 1 to
            10,000,000. Further ones are summed together.

    Raises:
        ConfigurationError: `prices` is not a mapping of "provider/model" to Price.
        InvalidRequestError: `max_entries` is out of range.

    Example:
        ```python
        ledger = md.Ledger()
        async with md.Ollama(observers=[ledger]) as ollama:
            await ollama.model("gemma3").generate("Hello", user_id="ann")
        print(ledger.by_user()["ann"].output_tokens)
        ```
    """

    def __init__(
        self, prices: Mapping[str, Price] | None = None, *, max_entries: int = MAX_ENTRIES
    ) -> None:
        self._prices = None if prices is None else checked_prices(prices)
        check_number("max_entries", max_entries, 1, 10_000_000, integer=True)
        # Loading is slow, so it is done here and not in the event loop when the first call ends.
        load_price_list()
        self._lock = Lock()
        self._total = _Sums()
        self._users = _SumsByKey(max_entries)
        self._models = _SumsByKey(max_entries)

    def total(self) -> Account:
        """Return the sums over all calls."""
        with self._lock:
            return self._total.account()

    def by_user(self) -> dict[str, Account]:
        """Return the sums by the `user_id` of the requests; "" for requests without one."""
        with self._lock:
            return self._users.accounts()

    def by_model(self) -> dict[str, Account]:
        """Return the sums by "provider/model", with the model as it was requested."""
        with self._lock:
            return {"/".join(key): account for key, account in self._models.accounts().items()}

    def by_provider(self) -> dict[str, Account]:
        """Return the sums by provider."""
        with self._lock:
            return _sum_by_provider(self._models.accounts())

    def snapshot(self) -> LedgerSnapshot:
        """Return all sums at one moment."""
        with self._lock:
            total = self._total.account()
            users = self._users.accounts()
            models = self._models.accounts()
            other_users = self._users.others.account()
            other_models = self._models.others.account()
        return LedgerSnapshot(
            total,
            users,
            {"/".join(key): account for key, account in models.items()},
            _sum_by_provider(models),
            other_users,
            other_models,
        )

    def clear(self) -> None:
        """Reset all sums to zero."""
        with self._lock:
            self._total = _Sums()
            self._users.clear()
            self._models.clear()

    def on_start(self, call: Call) -> None:
        """Count the call."""
        self._add(call, {"calls": 1})

    def on_retry(self, call: Call, attempt: RetryAttempt) -> None:
        """Count the repeated attempt."""
        self._add(call, {"retries": 1})

    def on_success(self, call: Call, outcome: CallResult) -> None:
        """Add the usage and the cost of the call."""
        spending = cost(outcome, self._prices, call=call)
        money = {"unpriced": 1} if spending is None else {"money": spending.amount}
        self._add(call, {"waited": outcome.seconds, **_usage(outcome, call.operation), **money})

    def on_error(self, call: Call, error: MajordomoError) -> None:
        """Count the failure."""
        self._add(call, {"failures": 1, "waited": call.elapsed()})

    def on_cancel(self, call: Call) -> None:
        """Count the cancellation."""
        self._add(call, {"cancelled": 1, "waited": call.elapsed()})

    def _add(self, call: Call, amounts: Mapping[str, Any]) -> None:
        with self._lock:
            self._total.add(amounts)
            self._users.sums_of(call.user_id).add(amounts)
            self._models.sums_of((call.provider, call.model)).add(amounts)


class _Sums:
    """A mutable account.

    Only the fields of an entry are touched, because this runs in the event loop of the calls.
    """

    __slots__ = ("_sums",)

    def __init__(self) -> None:
        self._sums: dict[str, Any] = {}

    def add(self, amounts: Mapping[str, Any]) -> None:
        """Add amounts by field name."""
        sums = self._sums
        for name, value in amounts.items():
            sums[name] = sums[name] + value if name in sums else value

    def account(self) -> Account:
        """Return the sums as an immutable value."""
        return Account(**self._sums)


class _SumsByKey:
    """Sums for at most `max_entries` keys; amounts of further keys are added to `others`."""

    def __init__(self, max_entries: int) -> None:
        self._max_entries = max_entries
        self.clear()

    def clear(self) -> None:
        """Remove all keys."""
        self._sums: dict[Any, _Sums] = {}
        self.others = _Sums()

    def sums_of(self, key: Any) -> _Sums:
        """Return the sums to which amounts of this key are added."""
        sums = self._sums.get(key)
        if sums is not None:
            return sums
        if len(self._sums) >= self._max_entries:
            return self.others
        self._sums[key] = sums = _Sums()
        return sums

    def accounts(self) -> dict[Any, Account]:
        """Return the sums by key as immutable values."""
        return {key: sums.account() for key, sums in self._sums.items()}


def _sum_by_provider(models: Mapping[tuple[str, str], Account]) -> dict[str, Account]:
    accounts: dict[str, Account] = {}
    for (provider, _), account in models.items():
        accounts[provider] = accounts.get(provider, Account()) + account
    return accounts


def _usage(outcome: CallResult, operation: str) -> dict[str, Any]:
    """Return what a finished call adds to an account, except its cost and the time it took."""
    usage = outcome.usage
    reported = {
        name: count for name in _TOKEN_FIELDS if (count := getattr(usage, name, None)) is not None
    }
    expected = {"input_tokens"} if operation == "embed" else {"input_tokens", "output_tokens"}
    is_counted = expected <= reported.keys() or (operation == "image" and not reported)
    time_fields = (
        ("seconds",)
        if isinstance(usage, imagegen.Usage)
        else ("load_seconds", "prompt_seconds", "output_seconds")
    )
    seconds = sum(value for name in time_fields if (value := getattr(usage, name)) is not None)
    return {
        **reported,
        "images": outcome.images,
        "pixels": sum(width * height for width, height in outcome.sizes),
        "uncounted": int(not is_counted),
        "seconds": seconds,
    }
