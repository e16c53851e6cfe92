"""Money: what is known to the last digit, and what is not known at all."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import majordomo as md
from majordomo import imagegen, llm
from majordomo.observability import Call, CallResult
from majordomo.observability.costs import cost
from majordomo.observability.image_prices import DATED
from majordomo.observability.prices import Cost, Price
from tests.support.hypothesis_effort import tries

Image = Callable[..., md.ImagePart]
OPENAI, GOOGLE = "https://api.openai.com", "https://generativelanguage.googleapis.com"


def reply(provider: str, model: str, usage: llm.Usage, *parts: Any) -> llm.Reply:
    return llm.Reply(llm.assistant(*(parts or ("x",))), "stop", usage, model, provider)


def call(
    provider: str, model: str, address: str = "", operation: Any = "chat", **settings: Any
) -> Call:
    return Call(
        "1",
        operation,
        provider,
        model,
        address=address,
        settings=settings,
        started_at=1_795_000_000,
    )


def amount(found: Cost | None) -> Decimal | None:
    return None if found is None else found.amount


def dollars(price: Price, usage: llm.Usage) -> Decimal | None:
    return amount(cost(reply("p", "m", usage), {"p/m": price}))


class TestYours:
    @settings(deadline=None, max_examples=tries(50))
    @given(
        st.integers(0, 10**9),
        st.integers(0, 10**9),
        st.decimals(0, 1000, places=4),
        st.decimals(0, 1000, places=4),
    )
    def test_tokens_cost_what_they_cost(
        self, read: int, written: int, in_price: Decimal, out_price: Decimal
    ) -> None:
        assert (
            dollars(Price(in_price, out_price), llm.Usage(read, written))
            == (in_price * read + out_price * written) / 1_000_000
        )

    @pytest.mark.parametrize(
        ("price", "usage", "expected"),
        [
            (Price(1, 2), llm.Usage(), None),
            (Price(1, 2), llm.Usage(3), None),
            (Price(1), llm.Usage(3, 2), None),
            (Price(1), llm.Usage(3, 0), "0.000003"),
            (Price(0, 0), llm.Usage(3, 2), "0"),
            (Price(), llm.Usage(3, 2), None),
            (Price(10, 1, cached_per_million=1), llm.Usage(100, 0, 40), "0.00064"),
            (Price(10, 1, cached_per_million=1), llm.Usage(100, 0), "0.001"),
            (Price(10, 1, cached_per_million=1), llm.Usage(100, 0, 400), None),
            (Price(10, 1, cache_write_per_million=20), llm.Usage(100, 0, None, None, 50), "0.0015"),
            (Price(1, 1, image_input_per_million=9), llm.Usage(100, 0), None),
            (Price(1, 1, image_input_per_million=1), llm.Usage(100, 0), "0.0001"),
            (
                Price(1, 1, image_input_per_million=9),
                llm.Usage(100, 0, image_input_tokens=50),
                "0.0005",
            ),
            (
                Price(1, 1, image_output_per_million=9),
                llm.Usage(0, 100, image_output_tokens=50),
                "0.0005",
            ),
            (Price(1, 1, image_output_per_million=9), llm.Usage(0, 0), "0"),
            (
                Price(1, 1, audio_input_per_million=9, audio_output_per_million=3),
                llm.Usage(10, 10),
                None,
            ),
            (Price(per_request="0.01"), llm.Usage(), "0.01"),
            (Price(1, 1, per_request="0.01"), llm.Usage(), None),
            (
                Price(per_second="0.5"),
                llm.Usage(prompt_seconds=1.0, output_seconds=2.5, load_seconds=60),
                "1.75",
            ),
            (Price(per_second="0.5"), llm.Usage(3, 2), None),
        ],
    )
    def test_what_is_missing_makes_the_whole_unknown(
        self, price: Price, usage: llm.Usage, expected: str | None
    ) -> None:
        assert dollars(price, usage) == (None if expected is None else Decimal(expected))

    def test_images_cost_by_number_and_by_size(self, image: Image) -> None:
        drawn = imagegen.Result(
            (image(1000, 500), image(1000, 500)),
            provider="p",
            model="m",
            usage=imagegen.Usage(seconds=4),
        )
        prices = {"p/m": Price(per_image="0.02", per_megapixel="0.10", per_second="0.001")}
        assert cost(drawn, prices) == Cost(Decimal("0.144"), "yours")

    def test_images_that_tools_drew_are_not_the_chat_models(self, image: Image) -> None:
        called = llm.ToolCallPart("1", "draw", "{}")
        drawn = llm.tool_result(called, image())
        answer = llm.assistant("here", image())
        whole = llm.Reply(
            answer,
            "stop",
            provider="p",
            model="m",
            new_messages=(llm.assistant(called), drawn, answer),
        )
        assert len(whole.images) == 2
        assert amount(cost(whole, {"p/m": Price(per_image=1)})) == 1

    def test_embeddings_write_nothing(self) -> None:
        made = llm.Embeddings(((1.0,),), llm.Usage(1000), "e", "p")
        assert amount(cost(made, {"p/e": Price(1, 5)})) == Decimal("0.001")
        outcome = CallResult("e", 0.1, llm.Usage(1000))
        assert amount(
            cost(outcome, {"p/e": Price(1)}, call=call("p", "e", operation="embed"))
        ) == Decimal("0.001")

    def test_a_name_goes_before_patterns_and_the_first_pattern_before_others(self) -> None:
        prices = {
            "p/*": Price(per_request=1),
            "p/m[1]*": Price(per_request=2),
            "*/m[1]": Price(per_request=3),
        }
        assert [
            amount(cost(reply("p", model, llm.Usage()), prices)) for model in ("x", "m[1]", "m1")
        ] == [1, 1, 1]
        exact = {**prices, "p/m[1]": Price(per_request=4)}
        assert amount(cost(reply("p", "m[1]", llm.Usage()), exact)) == 4
        assert amount(cost(reply("q", "a/b", llm.Usage()), {"q/*": Price(per_request=5)})) == 5

    def test_the_name_that_was_asked_for_counts_too(self) -> None:
        answered = reply("p", "m-2026-01-01", llm.Usage())
        prices = {"p/m": Price(per_request=1)}
        assert cost(answered, prices) is None
        assert amount(cost(answered, prices, call=call("p", "m"))) == 1

    def test_yours_go_before_any_list_even_where_they_know_nothing(self) -> None:
        answered = reply("openai", "gpt-4o", llm.Usage(1000, 1000))
        assert amount(cost(answered)) == Decimal("0.0125")
        assert amount(cost(answered, {"openai/*": Price(1, 1)})) == Decimal("0.002")
        assert cost(answered, {"openai/*": Price(1)}) is None
        assert amount(cost(answered, {"gemini/*": Price(1)})) == Decimal("0.0125")

    @pytest.mark.parametrize("value", [-1, "x", float("nan"), float("inf"), True, [1]])
    def test_a_price_is_a_number_from_0(self, value: Any) -> None:
        with pytest.raises(md.ConfigurationError) as caught:
            Price(input_per_million=value)
        assert caught.value.details["field"] == "input_per_million"

    def test_a_float_is_the_number_it_shows(self) -> None:
        assert Price(0.1).input_per_million == Decimal("0.1")

    @pytest.mark.parametrize("prices", [{"m": Price(1)}, {"p/m": 0.5}, "p/m"])
    def test_prices_are_a_mapping_of_names(self, prices: Any) -> None:
        with pytest.raises(md.ConfigurationError):
            cost(reply("p", "m", llm.Usage()), prices)


class TestListed:
    def test_a_known_model_has_a_list_price_with_its_source(self) -> None:
        found = cost(reply("openai", "gpt-4o", llm.Usage(1000, 1000, 400)))
        assert found is not None
        assert found.amount == Decimal("0.012")
        assert found.source.startswith("genai-prices ")
        assert found.currency == "USD"

    @pytest.mark.parametrize(
        "answer",
        [
            reply("openai", "gpt-4o", llm.Usage()),
            reply("openai", "gpt-4o", llm.Usage(1000)),
            reply("openai", "a model nobody knows", llm.Usage(1, 1)),
            reply("openai", "", llm.Usage(1, 1)),
            reply("ollama", "gpt-4o", llm.Usage(1, 1)),
            reply("openaicompatible", "gpt-4o", llm.Usage(1, 1)),
            reply("openai", "gpt-4o", llm.Usage(1, 1, cached_tokens=100)),
        ],
    )
    def test_what_is_not_known_is_none(self, answer: llm.Reply) -> None:
        assert cost(answer) is None

    def test_a_known_address_says_whose_prices(self) -> None:
        answer = reply("openaicompatible", "llama-3.3-70b-versatile", llm.Usage(1000, 1000))
        assert amount(
            cost(answer, call=call("openaicompatible", "x", "https://api.groq.com"))
        ) == Decimal("0.00138")
        mine = reply("openai", "gpt-4o", llm.Usage(1000, 1000))
        assert cost(mine, call=call("openai", "gpt-4o", "http://127.0.0.1:8080")) is None, (
            "a server that only speaks like OpenAI"
        )
        assert amount(cost(mine, call=call("openai", "gpt-4o", OPENAI))) == Decimal("0.0125")

    def test_the_name_asked_for_is_tried_when_the_one_that_answered_has_no_price(self) -> None:
        answer = reply("openai", "gpt-4o-of-tomorrow", llm.Usage(1000, 1000))
        assert cost(answer) is None
        assert amount(cost(answer, call=call("openai", "gpt-4o", OPENAI))) == Decimal("0.0125")

    def test_cache_writes_have_their_prices(self) -> None:
        answer = reply("anthropic", "claude-sonnet-4-5", llm.Usage(100, 10, 10, None, 20, 5))
        assert amount(cost(answer)) == Decimal("0.00044925")

    def test_images_by_the_token_are_priced_by_modality(self, image: Image) -> None:
        def drawn(usage: imagegen.Usage, provider: str, model: str) -> Decimal | None:
            return amount(
                cost(imagegen.Result((image(),), usage=usage, provider=provider, model=model))
            )

        told = imagegen.Usage(50, 1000, None, 10, 40, None, 100, 900)
        assert drawn(told, "openai", "gpt-image-1.5") == Decimal("0.03017")
        assert drawn(imagegen.Usage(50, 1000), "openai", "gpt-image-1.5") is None, (
            "text and images cost differently"
        )
        told = imagegen.Usage(50, 1300, None, 50, 0, None, 10, 1290)
        assert drawn(told, "gemini", "gemini-2.5-flash-image") == Decimal("0.03874")
        assert drawn(imagegen.Usage(50, 1300), "gemini", "gemini-2.5-flash-image") is None

    def test_sound_that_nobody_told_apart_makes_a_price_unknown(self) -> None:
        assert cost(reply("gemini", "gemini-2.5-flash", llm.Usage(50, 1300))) is None
        assert amount(
            cost(reply("gemini", "gemini-2.5-flash", llm.Usage(50, 1300, audio_input_tokens=0)))
        ) == Decimal("0.003265")

    def test_embeddings_have_list_prices(self) -> None:
        assert amount(
            cost(
                llm.Embeddings(((1.0,),), llm.Usage(1_000_000), "text-embedding-3-small", "openai")
            )
        ) == Decimal("0.02")

    def test_without_the_extra_a_list_price_is_unknown(self) -> None:
        program = (
            "import sys; sys.modules['genai_prices'] = None\n"
            "from majordomo import llm\n"
            "from majordomo import Price, cost\n"
            "from majordomo.observability.ledger import Ledger\n"
            "Ledger()\n"
            "reply = llm.Reply(llm.assistant('x'), usage=llm.Usage(1, 1), provider='openai', model='gpt-4o')\n"
            "print(cost(reply), cost(reply, {'*/*': Price(0, 0)}).amount)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == ["None", "0"]

    def test_the_list_is_read_only_when_it_is_needed(self) -> None:
        program = "import sys, majordomo.observability.costs, majordomo.observability.ledger, majordomo.offline.provider; print('genai_prices' in sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == "False"


class TestByTheImage:
    def outcome(self, model: str, *sizes: tuple[int, int]) -> CallResult:
        return CallResult(model, 1.0, imagegen.Usage(), sizes=sizes)

    @pytest.mark.parametrize(
        ("model", "quality", "size", "expected"),
        [
            ("dall-e-3", {}, (1024, 1024), "0.040"),
            ("dall-e-3", {"quality": "standard"}, (1792, 1024), "0.080"),
            ("dall-e-3", {"quality": "hd"}, (1024, 1792), "0.120"),
            ("dall-e-3", {"quality": "auto"}, (1024, 1024), None),
            ("dall-e-3", {}, (512, 512), None),
            ("dall-e-2", {}, (512, 512), "0.018"),
        ],
    )
    def test_size_and_quality_make_the_price(
        self, model: str, quality: Any, size: tuple[int, int], expected: str | None
    ) -> None:
        asked = call("openai", model, OPENAI, "image", **quality)
        found = cost(self.outcome("", size, size), call=asked)
        assert found == (
            None if expected is None else Cost(2 * Decimal(expected), f"openai.com/pricing {DATED}")
        )

    def test_elsewhere_it_is_unknown(self) -> None:
        for asked in (
            call("openai", "dall-e-2", "http://localhost"),
            call("openaicompatible", "dall-e-2", "http://localhost"),
        ):
            assert cost(self.outcome("dall-e-2", (512, 512)), call=asked) is None

    def test_a_quality_that_is_not_known_matters_where_there_are_two(self, image: Image) -> None:
        for model, expected in (("dall-e-3", None), ("dall-e-2", Decimal("0.020"))):
            drawn = imagegen.Result((image(1024, 1024),), provider="openai", model=model)
            assert amount(cost(drawn)) == expected
