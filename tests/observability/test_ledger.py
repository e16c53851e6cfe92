"""Sums over calls, and what may be missing from them."""

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
from tests.support.hypothesis_effort import tries
from tests.support.loopback import Handler, Loopback, always, chat, whole

Serve = Callable[[Handler], Loopback]
MINE = {"p/*": Price(input_per_million=1, output_per_million=2)}


def finish(
    ledger: Ledger, user_id: str, model: str, usage: Any, operation: Any = "chat", **how: Any
) -> None:
    call = Call("1", operation, "p", model, user_id)
    ledger.on_start(call)
    ledger.on_success(call, CallResult(model, 0.5, usage, "stop", **how))


tokens = st.none() | st.integers(0, 10**6)
entries = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), tokens, tokens), max_size=12
)


@settings(deadline=None, max_examples=tries(40))
@given(entries)
def test_every_table_adds_up_to_the_total(
    calls: list[tuple[str, str, int | None, int | None]],
) -> None:
    ledger = Ledger(MINE, max_entries=2)
    for user_id, model, read, written in calls:
        finish(ledger, user_id, model, llm.Usage(read, written))
    books = ledger.snapshot()
    total = books.total
    assert sum(books.by_user.values(), books.other_users) == total
    assert sum(books.by_model.values(), books.other_models) == total
    assert total.calls == len(calls)
    assert total.input_tokens == sum(read or 0 for _, _, read, _ in calls)
    priced = [
        (read, written) for _, _, read, written in calls if read is not None and written is not None
    ]
    assert total.money == sum(
        (Decimal(read + 2 * written) / 1_000_000 for read, written in priced), Decimal(0)
    )
    assert total.unpriced == total.uncounted == len(calls) - len(priced)
    assert total.at_least == (len(calls) > len(priced))
    assert max(len(books.by_user), len(books.by_model)) <= 2


accounts = st.builds(
    Account,
    *[st.integers(0, 10**9)] * 18,
    st.just(0.0),
    st.just(0.0),
    st.decimals(0, 10**6, places=8),
    st.integers(0, 9),
)


@settings(deadline=None, max_examples=tries(40))
@given(accounts, accounts)
def test_accounts_are_added_field_by_field(one: Account, other: Account) -> None:
    both = one + other
    assert both == other + one
    assert one + Account() == one
    for item in fields(Account):
        assert getattr(both, item.name) == getattr(one, item.name) + getattr(other, item.name)


def test_a_ledger_tells_callers_models_and_providers_apart() -> None:
    ledger = Ledger()
    finish(ledger, "ann", "m", llm.Usage(3, 2))
    finish(ledger, "bob", "m", llm.Usage(30, 20))
    finish(ledger, "", "n/o", llm.Usage(300, 200))
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


def test_beyond_as_many_as_are_kept_others_are_counted_together() -> None:
    ledger = Ledger(max_entries=2)
    for user_id in ("ann", "bob", "cid", "dan", "ann"):
        finish(ledger, user_id, "m", llm.Usage(1, 1))
    books = ledger.snapshot()
    assert {caller: account.calls for caller, account in books.by_user.items()} == {
        "ann": 2,
        "bob": 1,
    }
    assert (books.other_users.calls, books.total.calls, books.other_models) == (2, 5, Account())


def test_modalities_images_and_times_are_kept_apart() -> None:
    ledger = Ledger()
    usage = imagegen.Usage(50, 60, 4.5, 10, 40, 5, 6, 54)
    finish(ledger, "", "m", usage, "image", sizes=((64, 48), (10, 10)))
    finish(
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
def test_what_was_not_counted_is_said(operation: str, usage: Any, uncounted: int) -> None:
    ledger = Ledger()
    finish(ledger, "", "m", usage, operation)
    assert ledger.total().uncounted == uncounted


def test_failures_cancellations_and_retries_are_counted() -> None:
    ledger = Ledger(MINE)
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
    assert account.at_least, "what failed may have cost something"
    assert account.money == 0


def test_books_become_json() -> None:
    ledger = Ledger(MINE)
    finish(ledger, "ann", "m", llm.Usage(3, 2))
    finish(ledger, "ä", "m", llm.Usage())
    books = json.loads(ledger.snapshot().to_json())
    assert books["currency"] == "USD"
    assert books["by_user"]["ann"]["money"] == "0.000007"
    assert books["by_user"]["ä"]["unpriced"] == 1
    assert (
        books["total"]["calls"]
        == books["by_model"]["p/m"]["calls"]
        == books["by_provider"]["p"]["calls"]
        == 2
    )
    assert books["other_users"]["calls"] == 0


def test_books_of_a_moment_do_not_change() -> None:
    ledger = Ledger()
    finish(ledger, "ann", "m", llm.Usage(3, 2))
    books = ledger.snapshot()
    finish(ledger, "bob", "n", llm.Usage(3, 2))
    assert (books.total.calls, list(books.by_user), list(books.by_model)) == (1, ["ann"], ["p/m"])


def test_threads_lose_nothing() -> None:
    ledger = Ledger()

    def work(user_id: str) -> None:
        for _ in range(50):
            finish(ledger, user_id, "m", llm.Usage(1, 1))

    threads = [threading.Thread(target=work, args=(str(number % 2),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.total().input_tokens == 400
    assert {account.calls for account in ledger.by_user().values()} == {200}


@pytest.mark.anyio
async def test_a_ledger_keeps_the_books_of_real_calls(serve: Serve) -> None:
    ledger = Ledger({"openaicompatible/m": Price(1, 2), "offline/*": Price(per_image="0.01")})
    server = serve(always(whole(chat("fine"))))
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
def test_prices_that_are_none_are_refused(prices: Any) -> None:
    with pytest.raises(md.ConfigurationError) as caught:
        Ledger(prices)
    assert caught.value.details["field"] == "prices"


@pytest.mark.parametrize("most", [0, True, 1.5, "x"])
def test_how_many_are_kept_is_a_whole_number(most: Any) -> None:
    with pytest.raises(md.InvalidRequestError):
        Ledger(max_entries=most)
