"""Options, precedence and checks of chat requests and image requests."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

import majordomo as md
from majordomo import imagegen, llm
from majordomo.imagegen.request import check_request
from majordomo.llm.request import check_request as check_chat_request
from majordomo.settings import Limits

FIELDS = [field.name for field in dataclasses.fields(imagegen.Request) if field.name != "prompt"]
PART = md.ImagePart(b"GIF89a\x01\0\x01\0;")
OPTIONS = {
    "n": (md.with_image_count, 2),
    "size": (md.with_image_size, "8x8"),
    "steps": (md.with_steps, 3),
    "cfg_scale": (md.with_cfg_scale, 0.0),
    "negative_prompt": (md.with_negative_prompt, "x"),
    "sampler": (md.with_sampler, "euler"),
    "seed": (md.with_seed, 0),
    "scheduler": (md.with_scheduler, "karras"),
    "images": (md.with_images, PART),
    "mask": (md.with_mask, PART),
    "strength": (md.with_strength, 0.5),
    "output_format": (md.with_output_format, "png"),
    "quality": (md.with_quality, "low"),
    "background": (md.with_background, "opaque"),
    "previews": (md.with_previews, 1),
    "extra": (md.with_extra, {"a": 1}),
    "aspect": (md.with_aspect, "16:9"),
    "megapixels": (md.with_megapixels, 0.5),
    "user_id": (md.with_user_id, "user-42"),
}


@pytest.mark.parametrize("name", FIELDS)
def test_there_is_one_option_per_field(name: str) -> None:
    option, value = OPTIONS[name]
    request = imagegen.Request("a").apply(option(value))
    expected = (value,) if name == "images" else value
    assert getattr(request, name) == expected
    assert request.override(**{name: None}) == imagegen.Request("a"), "None unsets"


CHAT_OPTIONS: dict[str, tuple[Callable[..., llm.Option], object]] = {
    "tools": (md.with_tools, md.Tool("f")),
    "tool_choice": (md.with_tool_choice, "auto"),
    "output": (md.with_output, {"type": "object"}),
    "temperature": (md.with_temperature, 0.0),
    "top_p": (md.with_top_p, 0.1),
    "top_k": (md.with_top_k, 5),
    "max_tokens": (md.with_max_tokens, 9),
    "stop": (md.with_stop, "x"),
    "seed": (md.with_seed, 0),
    "reasoning": (md.with_reasoning, "low"),
    "output_retries": (md.with_output_retries, 1),
    "extra": (md.with_extra, {"a": 1}),
    "user_id": (md.with_user_id, "user-42"),
}


@pytest.mark.parametrize(
    "name", [field.name for field in dataclasses.fields(llm.Request) if field.name != "messages"]
)
def test_there_is_one_option_per_chat_field(name: str) -> None:
    option, value = CHAT_OPTIONS[name]
    request = llm.Request().apply(option(value))
    assert getattr(request, name) == ((value,) if name in ("tools", "stop") else value)
    assert request.override(**{name: None}) == llm.Request()


def test_fields_of_a_request_override_options_of_the_model() -> None:
    preset = [
        md.with_steps(4),
        md.with_sampler("euler"),
        lambda r: dataclasses.replace(r, prompt=r.prompt + ", oil painting"),
    ]
    request = imagegen.Request("a cat", steps=5, seed=0).with_defaults(preset)
    assert (request.steps, request.sampler, request.seed, request.prompt) == (
        5,
        "euler",
        0,
        "a cat, oil painting",
    )


def test_an_unknown_field_is_a_type_error() -> None:
    for request in (imagegen.Request("a"), llm.Request()):
        with pytest.raises(TypeError):
            request.override(stpes=3)


def test_a_random_seed_is_chosen_for_every_call() -> None:
    option = md.with_random_seed()
    seeds = {imagegen.Request("a").apply(option).seed for _ in range(20)}
    assert len(seeds) > 15
    assert all(seed is not None and 0 <= seed < 2**31 for seed in seeds)


def test_the_configured_limits_apply() -> None:
    request = imagegen.Request("a", size="100x100", n=3)
    check_request(request, Limits())
    for limits in (Limits(max_image_side=99), Limits(max_image_pixels=9999), Limits(max_images=2)):
        with pytest.raises(md.InvalidRequestError):
            check_request(request, limits)


def test_a_mask_needs_an_image_and_gif_is_not_sent() -> None:
    for fields in ({"mask": PART}, {"images": (PART,)}):
        with pytest.raises(md.InvalidRequestError):
            check_request(imagegen.Request("a", **fields), Limits())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "make",
    [
        lambda: md.Timeout(total=0),
        lambda: md.Timeout(idle=float("nan")),
        lambda: md.Retries(attempts=0),
        lambda: md.Retries(initial_delay=-1),
        lambda: md.Limits(max_reply_bytes=0),
        lambda: md.LlamaSwap(max_concurrency=0),
        lambda: md.LlamaSwap("nowhere"),
        lambda: md.LlamaSwap(images="x"),
    ],
)  # type: ignore[arg-type]
def test_invalid_settings_raise_configuration_error(make: Callable[[], object]) -> None:
    with pytest.raises(md.ConfigurationError):
        make()


def test_a_result_always_has_an_image() -> None:
    with pytest.raises(md.NoImageError):
        md.ImageResult(())


@pytest.mark.parametrize("user_id", ["x" * 257, "x" * 1_000_000, "a\0b", "a\nb", "\ud800", 42])
def test_a_user_id_is_short_printable_text(user_id: object) -> None:
    for check in (
        lambda: check_request(imagegen.Request("a", user_id=user_id), Limits()),  # type: ignore[arg-type]
        lambda: check_chat_request(llm.Request((llm.user("a"),), user_id=user_id), Limits()),  # type: ignore[arg-type]
    ):
        with pytest.raises(md.InvalidRequestError) as caught:
            check()
        assert caught.value.field == "user_id"


@pytest.mark.parametrize("extra", [5, ["a"], {5: "a"}])
def test_extra_that_is_not_a_mapping_names_its_field(extra: Any) -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        md.with_extra(extra)(llm.Request())
    assert caught.value.field == "extra"


@pytest.mark.parametrize("name", ["initial_delay", "max_delay", "max_retry_after", "budget"])
def test_a_bool_is_not_a_valid_retry_setting(name: str) -> None:
    with pytest.raises(md.ConfigurationError, match=f"retries.{name}"):
        md.Retries(**{name: True})  # type: ignore[arg-type]
