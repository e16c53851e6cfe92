"""Options, precedence and checks of chat requests and image requests."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import pytest
from pydantic import BaseModel

import majordomo as md
from majordomo import imagegen, llm
from majordomo.imagegen.request import check_request
from majordomo.llm.request import check_request as check_chat_request
from majordomo.requests.base import BaseRequest, declaration, fields_set
from majordomo.requests.fields import Field, Number
from majordomo.settings import Limits

PART = md.ImagePart(b"GIF89a\x01\0\x01\0;")
KINDS: dict[type[BaseRequest], Callable[..., Any]] = {
    llm.Request: check_chat_request,
    imagegen.Request: check_request,
}
BLANK = {llm.Request: llm.Request((llm.user("a"),)), imagegen.Request: imagegen.Request("a")}
# Values of the fields that declare no example.
VALUES: dict[str, object] = {
    "tools": md.Tool("f"),
    "tool_choice": "auto",
    "images": PART,
    "mask": PART,
    "extra": {"a": 1},
    "user_id": "user-42",
}
FIELDS = [
    pytest.param(kind, name, field, id=f"{kind.__module__}.{name}")
    for kind in KINDS
    for name, field in list(declaration(kind).fields.items())[1:]
]
every_field = pytest.mark.parametrize(("kind", "name", "field"), FIELDS)


@every_field
def test_there_is_one_option_per_field(kind: type[BaseRequest], name: str, field: Field) -> None:
    value = VALUES.get(name, field.example)
    option = getattr(md, f"with_{field.option or name}")
    many = bool(field.item_type)
    items = value if many and isinstance(value, tuple) else (value,)
    request = BLANK[kind].apply(option(*items))
    assert fields_set(request) == (name,)
    assert getattr(request, name) == (items if many else value)
    assert request.override(**{name: None}) == BLANK[kind], "None unsets"


@every_field
def test_the_keyword_has_the_type_of_the_field(
    kind: type[BaseRequest], name: str, field: Field
) -> None:
    overrides = {llm.Request: llm.Overrides, imagegen.Request: imagegen.Overrides}[kind]
    keywords = get_type_hints(overrides)
    assert keywords.keys() == {name for name, _ in declaration(kind).settings}
    if not field.keyword_type and name != "output":
        assert set(get_args(keywords[name])) == {*get_args(get_type_hints(kind)[name] | None)}


@every_field
def test_the_example_is_valid_and_not_the_default(
    kind: type[BaseRequest], name: str, field: Field
) -> None:
    if name in VALUES:
        return
    request = BLANK[kind].override(**{name: field.example})
    assert fields_set(request) == (name,)
    KINDS[kind](request, Limits())


NUMBERS = [
    pytest.param(*parameter.values, id=parameter.id)
    for parameter in FIELDS
    if isinstance(parameter.values[2], Number)
]


@pytest.mark.parametrize(("kind", "name", "field"), NUMBERS)
def test_a_number_is_within_its_documented_bounds(
    kind: type[BaseRequest], name: str, field: Number
) -> None:
    low, high = field.bounds(Limits())
    for value in (low, high):
        KINDS[kind](BLANK[kind].override(**{name: value}), Limits())
    outside = (low - 1, high + 1, math.nan, math.inf, True, "1", 10**400, *([1.5] * field.integer))
    for value in outside:
        with pytest.raises(md.InvalidRequestError) as caught:
            KINDS[kind](BLANK[kind].override(**{name: value}), Limits())
        assert caught.value.field == name


def test_setting_one_of_several_exclusive_fields_unsets_the_others() -> None:
    sized = imagegen.Request("a", size="8x8")
    assert sized.override(aspect="1:1") == imagegen.Request("a", aspect="1:1")
    assert sized.with_defaults([md.with_megapixels(1)]) == sized
    shaped = imagegen.Request("a", aspect="1:1").override(megapixels=1.0)
    assert (shaped.aspect, shaped.megapixels) == ("1:1", 1.0)
    assert shaped.override(size="8x8") == sized


@every_field
def test_a_request_is_restored_from_json(kind: type[BaseRequest], name: str, field: Field) -> None:
    request = BLANK[kind].override(
        **{
            name: (VALUES[name],)
            if name in ("tools", "images")
            else VALUES.get(name, field.example)
        }
    )
    values = json.loads(json.dumps(request.to_dict()))
    assert set(values) == {declaration(kind).content, name}
    assert kind.from_dict(values) == request


def test_the_json_form_of_a_chat_request_has_what_a_backend_receives() -> None:
    class Answer(BaseModel):
        number: int

    def add(a: int) -> int:
        """Add one."""
        return a + 1

    message = llm.user("a", PART, llm.FilePart(b"%PDF-", "application/pdf", "a.pdf"))
    request = llm.Request((message,), tools=(add,), output=Answer)  # type: ignore[arg-type]
    restored = llm.Request.from_dict(json.loads(json.dumps(request.to_dict())))
    assert restored.messages == request.messages
    assert restored.tools == request.tools
    assert restored.tools[0].function is None
    assert restored.output == Answer.model_json_schema()


@pytest.mark.parametrize(
    ("kind", "values", "field"),
    [
        (llm.Request, {"stpes": 3}, "stpes"),
        (llm.Request, {"messages": 5}, "messages"),
        (llm.Request, {"messages": ["hi"]}, "messages"),
        (llm.Request, {"messages": [{"role": "user"}]}, "messages"),
        (llm.Request, {"messages": [{"role": "user", "parts": [{"type": "x"}]}]}, "messages"),
        (llm.Request, {"tools": [{"name": "f"}]}, "tools"),
        (llm.Request, {"tools": [{"name": "", "description": "", "parameters": {}}]}, "tools"),
        (llm.Request, {"output": 5}, "output"),
        (llm.Request, {"stop": 5}, "stop"),
        (llm.Request, {"extra": 5}, "extra"),
        (imagegen.Request, {}, "prompt"),
        (imagegen.Request, {"prompt": "a", "images": 5}, "images"),
        (imagegen.Request, {"prompt": "a", "images": ["no base64"]}, "images"),
        (imagegen.Request, {"prompt": "a", "mask": 5}, "mask"),
    ],
)
def test_other_json_is_refused_with_the_field(
    kind: type[BaseRequest], values: dict[str, Any], field: str
) -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        kind.from_dict(values)
    assert caught.value.field == field


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
