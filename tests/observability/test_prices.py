"""Costs: exact where everything is known, and None otherwise."""

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
from tests.support.hypothesis_effort import max_examples

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


def amount(result: Cost | None) -> Decimal | None:
    return None if result is None else result.amount


def dollars(price: Price, usage: llm.Usage) -> Decimal | None:
    return amount(cost(reply("p", "m", usage), {"p/m": price}))


class TestOwnPrices:
    @settings(deadline=None, max_examples=max_examples(50))
    @given(
        st.integers(0, 10**9),
        st.integers(0, 10**9),
        st.decimals(0, 1000, places=4),
        st.decimals(0, 1000, places=4),
    )
    def test_token_costs_are_exact(
        self, input_tokens: int, output_tokens: int, in_price: Decimal, out_price: Decimal
    ) -> None:
        assert (
            dollars(Price(in_price, out_price), llm.Usage(input_tokens, output_tokens))
            == (in_price * input_tokens + out_price * output_tokens) / 1_000_000
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
    def test_a_missing_count_makes_the_cost_unknown(
        self, price: Price, usage: llm.Usage, expected: str | None
    ) -> None:
        assert dollars(price, usage) == (None if expected is None else Decimal(expected))

    def test_images_are_priced_by_number_and_size(self, image: Image) -> None:
        result = imagegen.Result(
            (image(1000, 500), image(1000, 500)),
            provider="p",
            model="m",
            usage=imagegen.Usage(seconds=4),
        )
        prices = {"p/m": Price(per_image="0.02", per_megapixel="0.10", per_second="0.001")}
        assert cost(result, prices) == Cost(Decimal("0.144"), "yours")

    def test_images_of_tools_are_not_priced(self, image: Image) -> None:
        tool_call = llm.ToolCallPart("1", "draw", "{}")
        tool_result = llm.tool_result(tool_call, image())
        answer = llm.assistant("here", image())
        complete = llm.Reply(
            answer,
            "stop",
            provider="p",
            model="m",
            new_messages=(llm.assistant(tool_call), tool_result, answer),
        )
        assert len(complete.images) == 2
        assert amount(cost(complete, {"p/m": Price(per_image=1)})) == 1

    def test_embeddings_have_no_output_tokens(self) -> None:
        embeddings = llm.Embeddings(((1.0,),), llm.Usage(1000), "e", "p")
        assert amount(cost(embeddings, {"p/e": Price(1, 5)})) == Decimal("0.001")
        outcome = CallResult("e", 0.1, llm.Usage(1000))
        assert amount(
            cost(outcome, {"p/e": Price(1)}, call=call("p", "e", operation="embed"))
        ) == Decimal("0.001")

    def test_an_exact_name_precedes_patterns_and_the_first_pattern_others(self) -> None:
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

    def test_the_requested_model_name_is_tried_too(self) -> None:
        answered = reply("p", "m-2026-01-01", llm.Usage())
        prices = {"p/m": Price(per_request=1)}
        assert cost(answered, prices) is None
        assert amount(cost(answered, prices, call=call("p", "m"))) == 1

    def test_own_prices_precede_list_prices_even_when_unknown(self) -> None:
        answered = reply("openai", "gpt-4o", llm.Usage(1000, 1000))
        assert amount(cost(answered)) == Decimal("0.0125")
        assert amount(cost(answered, {"openai/*": Price(1, 1)})) == Decimal("0.002")
        assert cost(answered, {"openai/*": Price(1)}) is None
        assert amount(cost(answered, {"gemini/*": Price(1)})) == Decimal("0.0125")

    @pytest.mark.parametrize("value", [-1, "x", float("nan"), float("inf"), True, [1]])
    def test_a_price_must_be_a_number_from_0(self, value: Any) -> None:
        with pytest.raises(md.ConfigurationError) as caught:
            Price(input_per_million=value)
        assert caught.value.details["field"] == "input_per_million"

    def test_a_float_is_read_as_it_prints(self) -> None:
        assert Price(0.1).input_per_million == Decimal("0.1")

    @pytest.mark.parametrize("prices", [{"m": Price(1)}, {"p/m": 0.5}, "p/m"])
    def test_prices_must_be_a_mapping_of_names(self, prices: Any) -> None:
        with pytest.raises(md.ConfigurationError):
            cost(reply("p", "m", llm.Usage()), prices)


class TestListPrices:
    def test_a_known_model_has_a_list_price_with_its_source(self) -> None:
        listed = cost(reply("openai", "gpt-4o", llm.Usage(1000, 1000, 400)))
        assert listed is not None
        assert listed.amount == Decimal("0.012")
        assert listed.source.startswith("genai-prices ")
        assert listed.currency == "USD"

    @pytest.mark.parametrize(
        "answer",
        [
            reply("openai", "gpt-4o", llm.Usage()),
            reply("openai", "gpt-4o", llm.Usage(1000)),
            reply("openai", "an unknown model", llm.Usage(1, 1)),
            reply("openai", "", llm.Usage(1, 1)),
            reply("ollama", "gpt-4o", llm.Usage(1, 1)),
            reply("openaicompatible", "gpt-4o", llm.Usage(1, 1)),
            reply("openai", "gpt-4o", llm.Usage(1, 1, cached_tokens=100)),
        ],
    )
    def test_an_unknown_cost_is_none(self, answer: llm.Reply) -> None:
        assert cost(answer) is None

    def test_a_known_address_selects_the_vendor(self) -> None:
        answer = reply("openaicompatible", "llama-3.3-70b-versatile", llm.Usage(1000, 1000))
        assert amount(
            cost(answer, call=call("openaicompatible", "x", "https://api.groq.com"))
        ) == Decimal("0.00138")
        own_server = reply("openai", "gpt-4o", llm.Usage(1000, 1000))
        assert cost(own_server, call=call("openai", "gpt-4o", "http://127.0.0.1:8080")) is None, (
            "a server with OpenAI's API that is not OpenAI"
        )
        assert amount(cost(own_server, call=call("openai", "gpt-4o", OPENAI))) == Decimal("0.0125")

    def test_the_requested_model_is_tried_when_the_answering_one_has_no_price(self) -> None:
        answer = reply("openai", "gpt-4o-of-tomorrow", llm.Usage(1000, 1000))
        assert cost(answer) is None
        assert amount(cost(answer, call=call("openai", "gpt-4o", OPENAI))) == Decimal("0.0125")

    def test_cache_writes_have_prices_of_their_own(self) -> None:
        answer = reply("anthropic", "claude-sonnet-4-5", llm.Usage(100, 10, 10, None, 20, 5))
        assert amount(cost(answer)) == Decimal("0.00044925")

    def test_image_tokens_are_priced_by_modality(self, image: Image) -> None:
        def image_cost(usage: imagegen.Usage, provider: str, model: str) -> Decimal | None:
            return amount(
                cost(imagegen.Result((image(),), usage=usage, provider=provider, model=model))
            )

        usage = imagegen.Usage(50, 1000, None, 10, 40, None, 100, 900)
        assert image_cost(usage, "openai", "gpt-image-1.5") == Decimal("0.03017")
        assert image_cost(imagegen.Usage(50, 1000), "openai", "gpt-image-1.5") is None, (
            "text and images cost differently"
        )
        usage = imagegen.Usage(50, 1300, None, 50, 0, None, 10, 1290)
        assert image_cost(usage, "gemini", "gemini-2.5-flash-image") == Decimal("0.03874")
        assert image_cost(imagegen.Usage(50, 1300), "gemini", "gemini-2.5-flash-image") is None

    def test_an_unknown_number_of_audio_tokens_makes_the_cost_unknown(self) -> None:
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
            "reply = llm.Reply(llm.assistant('x'), usage=llm.Usage(1, 1),"
            " provider='openai', model='gpt-4o')\n"
            "print(cost(reply), cost(reply, {'*/*': Price(0, 0)}).amount)"
        )
        process = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
        assert process.stdout.split() == ["None", "0"]

    def test_the_price_list_is_loaded_only_when_needed(self) -> None:
        program = (
            "import sys, majordomo.observability.costs, majordomo.observability.ledger\n"
            "import majordomo.offline.provider\n"
            "print('genai_prices' in sys.modules)"
        )
        process = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
        assert process.stdout.strip() == "False"


class TestImagePrices:
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
    def test_size_and_quality_determine_the_price(
        self, model: str, quality: Any, size: tuple[int, int], expected: str | None
    ) -> None:
        observed = call("openai", model, OPENAI, "image", **quality)
        result = cost(self.outcome("", size, size), call=observed)
        assert result == (
            None if expected is None else Cost(2 * Decimal(expected), f"openai.com/pricing {DATED}")
        )

    def test_another_address_has_no_price(self) -> None:
        for observed in (
            call("openai", "dall-e-2", "http://localhost"),
            call("openaicompatible", "dall-e-2", "http://localhost"),
        ):
            assert cost(self.outcome("dall-e-2", (512, 512)), call=observed) is None

    def test_an_unknown_quality_matters_where_a_model_has_several(self, image: Image) -> None:
        for model, expected in (("dall-e-3", None), ("dall-e-2", Decimal("0.020"))):
            result = imagegen.Result((image(1024, 1024),), provider="openai", model=model)
            assert amount(cost(result)) == expected
