"""Ledgers: sums over calls, and what is counted as unknown."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import fields
from decimal import Decimal
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import majordomo as md
from majordomo import imagegen, llm
from majordomo.observability import Call, CallResult, RetryAttempt
from majordomo.observability.ledger import Account, Ledger
from majordomo.observability.prices import Price
from tests.support.hypothesis_effort import max_examples
from tests.support.loopback import Handler, Loopback, chat_completion, http_response, reply_with

Serve = Callable[[Handler], Loopback]
OWN_PRICES = {"p/*": Price(input_per_million=1, output_per_million=2)}


def record_call(
    ledger: Ledger,
    user_id: str,
    model: str,
    usage: Any,
    operation: Any = "chat",
    **result_fields: Any,
) -> None:
    call = Call("1", operation, "p", model, user_id)
    ledger.on_start(call)
    ledger.on_success(call, CallResult(model, 0.5, usage, "stop", **result_fields))


tokens = st.none() | st.integers(0, 10**6)
entries = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), tokens, tokens), max_size=12
)


@settings(deadline=None, max_examples=max_examples(40))
@given(entries)
def test_every_table_adds_up_to_the_total(
    calls: list[tuple[str, str, int | None, int | None]],
) -> None:
    ledger = Ledger(OWN_PRICES, max_entries=2)
    for user_id, model, input_tokens, output_tokens in calls:
        record_call(ledger, user_id, model, llm.Usage(input_tokens, output_tokens))
    snapshot = ledger.snapshot()
    total = snapshot.total
    assert sum(snapshot.by_user.values(), snapshot.other_users) == total
    assert sum(snapshot.by_model.values(), snapshot.other_models) == total
    assert total.calls == len(calls)
    assert total.input_tokens == sum(input_tokens or 0 for _, _, input_tokens, _ in calls)
    priced = [
        (input_tokens, output_tokens)
        for _, _, input_tokens, output_tokens in calls
        if input_tokens is not None and output_tokens is not None
    ]
    assert total.money == sum(
        (
            Decimal(input_tokens + 2 * output_tokens) / 1_000_000
            for input_tokens, output_tokens in priced
        ),
        Decimal(0),
    )
    assert total.unpriced == total.uncounted == len(calls) - len(priced)
    assert total.at_least == (len(calls) > len(priced))
    assert max(len(snapshot.by_user), len(snapshot.by_model)) <= 2


accounts = st.builds(
    Account,
    *[st.integers(0, 10**9)] * 18,
    st.just(0.0),
    st.just(0.0),
    st.decimals(0, 10**6, places=8),
    st.integers(0, 9),
)


@settings(deadline=None, max_examples=max_examples(40))
@given(accounts, accounts)
def test_accounts_are_added_field_by_field(one: Account, other: Account) -> None:
    total = one + other
    assert total == other + one
    assert one + Account() == one
    for item in fields(Account):
        assert getattr(total, item.name) == getattr(one, item.name) + getattr(other, item.name)


def test_users_models_and_providers_have_sums_of_their_own() -> None:
    ledger = Ledger()
    record_call(ledger, "ann", "m", llm.Usage(3, 2))
    record_call(ledger, "bob", "m", llm.Usage(30, 20))
    record_call(ledger, "", "n/o", llm.Usage(300, 200))
    assert {user_id: account.input_tokens for user_id, account in ledger.by_user().items()} == {
        "ann": 3,
        "bob": 30,
        "": 300,
    }
    assert {model: account.output_tokens for model, account in ledger.by_model().items()} == {
        "p/m": 22,
        "p/n/o": 200,
    }
    assert ledger.by_provider() == {"p": ledger.total()}
    ledger.clear()
    assert (ledger.total(), ledger.by_user(), ledger.by_model()) == (Account(), {}, {})


def test_entries_beyond_the_maximum_are_summed_together() -> None:
    ledger = Ledger(max_entries=2)
    for user_id in ("ann", "bob", "cid", "dan", "ann"):
        record_call(ledger, user_id, "m", llm.Usage(1, 1))
    snapshot = ledger.snapshot()
    assert {user_id: account.calls for user_id, account in snapshot.by_user.items()} == {
        "ann": 2,
        "bob": 1,
    }
    assert (snapshot.other_users.calls, snapshot.total.calls, snapshot.other_models) == (
        2,
        5,
        Account(),
    )


def test_modalities_images_and_times_are_summed_separately() -> None:
    ledger = Ledger()
    usage = imagegen.Usage(50, 60, 4.5, 10, 40, 5, 6, 54)
    record_call(ledger, "", "m", usage, "image", sizes=((64, 48), (10, 10)))
    record_call(
        ledger, "", "m", llm.Usage(1, 2, load_seconds=1.0, prompt_seconds=0.25, output_seconds=0.5)
    )
    total = ledger.total()
    assert (total.text_input_tokens, total.image_input_tokens, total.cached_tokens) == (10, 40, 5)
    assert (total.text_output_tokens, total.image_output_tokens) == (6, 54)
    assert (total.images, total.pixels, total.seconds, total.waited) == (
        2,
        64 * 48 + 100,
        6.25,
        1.0,
    )


@pytest.mark.parametrize(
    ("operation", "usage", "uncounted"),
    [
        ("chat", llm.Usage(), 1),
        ("chat", llm.Usage(3), 1),
        ("chat", llm.Usage(3, 2), 0),
        ("embed", llm.Usage(3), 0),
        ("embed", llm.Usage(), 1),
        ("image", imagegen.Usage(seconds=3), 0),
        ("image", imagegen.Usage(3), 1),
        ("image", imagegen.Usage(3, 4), 0),
    ],
)
def test_calls_without_token_counts_are_uncounted(
    operation: str, usage: Any, uncounted: int
) -> None:
    ledger = Ledger()
    record_call(ledger, "", "m", usage, operation)
    assert ledger.total().uncounted == uncounted


def test_failures_cancellations_and_retries_are_counted() -> None:
    ledger = Ledger(OWN_PRICES)
    error = md.BackendError("x")
    call = Call("1", "chat", "p", "m", "ann")
    ledger.on_start(call)
    ledger.on_retry(call, RetryAttempt(1, error, 0.1))
    ledger.on_error(call, error)
    ledger.on_start(call)
    ledger.on_cancel(call)
    account = ledger.by_user()["ann"]
    assert (
        account.calls,
        account.failures,
        account.cancelled,
        account.retries,
        account.unpriced,
    ) == (2, 1, 1, 1, 0)
    assert account.at_least, "a failed call may have cost something"
    assert account.money == 0


def test_a_snapshot_converts_to_json() -> None:
    ledger = Ledger(OWN_PRICES)
    record_call(ledger, "ann", "m", llm.Usage(3, 2))
    record_call(ledger, "ä", "m", llm.Usage())
    data = json.loads(ledger.snapshot().to_json())
    assert data["currency"] == "USD"
    assert data["by_user"]["ann"]["money"] == "0.000007"
    assert data["by_user"]["ä"]["unpriced"] == 1
    assert (
        data["total"]["calls"]
        == data["by_model"]["p/m"]["calls"]
        == data["by_provider"]["p"]["calls"]
        == 2
    )
    assert data["other_users"]["calls"] == 0


def test_a_snapshot_does_not_change() -> None:
    ledger = Ledger()
    record_call(ledger, "ann", "m", llm.Usage(3, 2))
    snapshot = ledger.snapshot()
    record_call(ledger, "bob", "n", llm.Usage(3, 2))
    assert (snapshot.total.calls, list(snapshot.by_user), list(snapshot.by_model)) == (
        1,
        ["ann"],
        ["p/m"],
    )


def test_concurrent_threads_lose_no_call() -> None:
    ledger = Ledger()

    def record_calls(user_id: str) -> None:
        for _ in range(50):
            record_call(ledger, user_id, "m", llm.Usage(1, 1))

    threads = [
        threading.Thread(target=record_calls, args=(str(number % 2),)) for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.total().input_tokens == 400
    assert {account.calls for account in ledger.by_user().values()} == {200}


@pytest.mark.anyio
async def test_real_calls_are_summed(serve: Serve) -> None:
    ledger = Ledger({"openaicompatible/m": Price(1, 2), "offline/*": Price(per_image="0.01")})
    server = serve(reply_with(http_response(chat_completion("fine"))))
    async with md.OpenAICompatible(server.url + "/v1", observers=[ledger]) as provider:
        model = provider.model("m")
        async with anyio.create_task_group() as group:
            for number in range(6):
                group.start_soon(
                    lambda number=number: model.generate("hi", user_id=f"user-{number % 2}")
                )
    await (
        md.Offline(observers=[ledger])
        .image_model("renderer")
        .generate("a fox", n=2, size="64x64", steps=1, user_id="user-0")
    )
    total = ledger.total()
    assert (total.calls, total.failures, total.input_tokens, total.output_tokens, total.images) == (
        7,
        0,
        18,
        12,
        2,
    )
    assert total.money == Decimal("0.02") + 6 * Decimal("0.000007")
    assert not total.at_least
    assert {user_id: account.calls for user_id, account in ledger.by_user().items()} == {
        "user-0": 4,
        "user-1": 3,
    }
    assert set(ledger.by_provider()) == {"openaicompatible", "offline"}


@pytest.mark.parametrize("prices", [{"m": Price(1)}, {"p/m": 3}, [1], {1: Price(1)}])
def test_invalid_prices_are_rejected(prices: Any) -> None:
    with pytest.raises(md.ConfigurationError) as caught:
        Ledger(prices)
    assert caught.value.details["field"] == "prices"


@pytest.mark.parametrize("max_entries", [0, True, 1.5, "x"])
def test_max_entries_must_be_a_positive_integer(max_entries: Any) -> None:
    with pytest.raises(md.InvalidRequestError):
        Ledger(max_entries=max_entries)
