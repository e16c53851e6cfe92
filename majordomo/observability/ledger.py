"""What calls took and cost, added up while they happen."""

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
from majordomo.observability.token_prices import load
from majordomo.validation import check_number

MAX_ENTRIES = 10_000


@dataclass(frozen=True, slots=True)
class Account:
    """Sums over calls. Of what backends tell, the sums are of what they told: at least so much.

    `calls` began; of them `failures` failed and `cancelled` were left early, the others finished. `retries` are tries made again.
    `uncounted` calls finished without telling their tokens (images that no tokens are counted for are not among them). `seconds` is the
    backends' own work where they tell it: for a local one, the time of its GPU; `waited` is how long calls took here. `money` is US
    dollars for the calls whose price is known; `unpriced` calls finished without one. Accounts can be added, so `sum` joins several.
    """

    calls: int = 0
    failures: int = 0
    cancelled: int = 0
    retries: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    text_input_tokens: int = 0
    image_input_tokens: int = 0
    audio_input_tokens: int = 0
    text_output_tokens: int = 0
    image_output_tokens: int = 0
    audio_output_tokens: int = 0
    uncounted: int = 0
    images: int = 0
    pixels: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    money: Decimal = Decimal(0)
    unpriced: int = 0

    def __add__(self, other: Account) -> Account:
        return Account(*(getattr(self, name) + getattr(other, name) for name in _NAMES))

    @property
    def at_least(self) -> bool:
        """Whether more may have been spent than `money` says: a call has no price, failed, or was left early."""
        return bool(self.unpriced or self.failures or self.cancelled)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `money` is text, so that no cent is lost."""
        return {
            name: str(value) if name == "money" else value
            for name in _NAMES
            for value in (getattr(self, name),)
        }


_NAMES = tuple(item.name for item in fields(Account))
_USED = tuple(name for name in _NAMES if name.endswith("_tokens"))


@dataclass(frozen=True, slots=True)
class LedgerSnapshot:
    """The books at one moment. Callers and models beyond as many as are kept are together in `other_users` and `other_models`."""

    total: Account
    by_user: Mapping[str, Account]
    by_model: Mapping[str, Account]
    by_provider: Mapping[str, Account]
    other_users: Account = field(default_factory=Account)
    other_models: Account = field(default_factory=Account)

    def to_dict(self) -> dict[str, Any]:
        tables = {
            name: {key: value.to_dict() for key, value in getattr(self, name).items()}
            for name in ("by_user", "by_model", "by_provider")
        }
        others = {
            name: getattr(self, name).to_dict() for name in ("total", "other_users", "other_models")
        }
        return {"currency": "USD", **others, **tables}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False)


class Ledger(Observer):
    """Adds up every call of the providers it observes: in all, by caller, by model and by provider. Safe to share between threads.

    `prices` are yours, as for `majordomo.cost`. At most `most` callers and as many models are told apart; further ones are counted
    together. Raises ConfigurationError for prices that are none, InvalidRequestError for `most` below 1.
    """

    def __init__(
        self, prices: Mapping[str, Price] | None = None, *, max_entries: int = MAX_ENTRIES
    ) -> None:
        self._prices = None if prices is None else checked_prices(prices)
        check_number("max_entries", max_entries, 1, 10_000_000, whole=True)
        load()  # now, not in the event loop while the first call ends
        self._lock = Lock()
        self._total = _Sums()
        self._callers = _Table(max_entries)
        self._models = _Table(max_entries)

    def total(self) -> Account:
        with self._lock:
            return self._total.account()

    def by_user(self) -> dict[str, Account]:
        """By `caller` of the requests; "" for those that named nobody."""
        with self._lock:
            return self._callers.accounts()

    def by_model(self) -> dict[str, Account]:
        """By "provider/model", the model as it was asked for."""
        with self._lock:
            return {"/".join(key): account for key, account in self._models.accounts().items()}

    def by_provider(self) -> dict[str, Account]:
        with self._lock:
            return _by_provider(self._models.accounts())

    def snapshot(self) -> LedgerSnapshot:
        """All of it at one moment."""
        with self._lock:
            total, callers, models = (
                self._total.account(),
                self._callers.accounts(),
                self._models.accounts(),
            )
            others = self._callers.others.account(), self._models.others.account()
        return LedgerSnapshot(
            total,
            callers,
            {"/".join(key): account for key, account in models.items()},
            _by_provider(models),
            *others,
        )

    def clear(self) -> None:
        """Begin anew."""
        with self._lock:
            self._total = _Sums()
            self._callers.clear()
            self._models.clear()

    def on_start(self, call: Call) -> None:
        self._enter(call, {"calls": 1})

    def on_retry(self, call: Call, attempt: RetryAttempt) -> None:
        self._enter(call, {"retries": 1})

    def on_success(self, call: Call, outcome: CallResult) -> None:
        spent = cost(outcome, self._prices, call=call)
        money = {"unpriced": 1} if spent is None else {"money": spent.amount}
        self._enter(call, {"waited": outcome.seconds, **_used(outcome, call.operation), **money})

    def on_error(self, call: Call, error: MajordomoError) -> None:
        self._enter(call, {"failures": 1, "waited": call.elapsed()})

    def on_cancel(self, call: Call) -> None:
        self._enter(call, {"cancelled": 1, "waited": call.elapsed()})

    def _enter(self, call: Call, entry: Mapping[str, Any]) -> None:
        with self._lock:
            self._total.add(entry)
            self._callers.of(call.user_id).add(entry)
            self._models.of((call.provider, call.model)).add(entry)


class _Sums:
    """An account that is being added to: only what an entry has is touched, for this happens while calls wait."""

    __slots__ = ("_sums",)

    def __init__(self) -> None:
        self._sums: dict[str, Any] = {}

    def add(self, entry: Mapping[str, Any]) -> None:
        sums = self._sums
        for name, value in entry.items():
            sums[name] = sums[name] + value if name in sums else value

    def account(self) -> Account:
        return Account(**self._sums)


class _Table:
    """Sums by key, of as many keys as `most`; what comes later goes to the others."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.clear()

    def clear(self) -> None:
        self._sums: dict[Any, _Sums] = {}
        self.others = _Sums()

    def of(self, key: Any) -> _Sums:
        known = self._sums.get(key)
        if known is not None:
            return known
        if len(self._sums) >= self._most:
            return self.others
        self._sums[key] = made = _Sums()
        return made

    def accounts(self) -> dict[Any, Account]:
        return {key: sums.account() for key, sums in self._sums.items()}


def _by_provider(models: Mapping[tuple[str, str], Account]) -> dict[str, Account]:
    found: dict[str, Account] = {}
    for (provider, _), account in models.items():
        found[provider] = found.get(provider, Account()) + account
    return found


def _used(outcome: CallResult, operation: str) -> dict[str, Any]:
    usage = outcome.usage
    told = {name: count for name in _USED if (count := getattr(usage, name, None)) is not None}
    wanted = {"input_tokens"} if operation == "embed" else {"input_tokens", "output_tokens"}
    counted = wanted <= told.keys() or (operation == "image" and not told)
    times = (
        ("seconds",)
        if isinstance(usage, imagegen.Usage)
        else ("load_seconds", "prompt_seconds", "output_seconds")
    )
    worked = sum(second for name in times if (second := getattr(usage, name)) is not None)
    sizes = {
        "images": outcome.images,
        "pixels": sum(width * height for width, height in outcome.sizes),
    }
    return {**told, **sizes, "uncounted": int(not counted), "seconds": worked}
