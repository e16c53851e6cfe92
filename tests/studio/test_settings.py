from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from majordomo.imagegen.request import check_request
from majordomo.settings import Limits
from majordomo.studio import TARGETS, NamedPrompt, Plan, classify
from majordomo.studio.image_requests import requests_for
from majordomo.studio.settings import resolve_settings
from tests.support.hypothesis_effort import max_examples

VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.from_regex(r"\A\d{1,6}[x:]\d{1,6}\Z")
    | st.lists(st.integers(), max_size=2)
)
MODEL_VALUES = st.dictionaries(
    st.sampled_from(["n", "size", "aspect", "steps", "cfg_scale", "sampler", "what"]), VALUES
)
BRIEFS = [
    "a cat",
    "a cat, portrait, 5 variants",
    "a cat, 16:9",
    "a cat, 1000x300",
    "a cat, landscape format, 16000x200",
]


@given(MODEL_VALUES, st.sampled_from(BRIEFS), st.sampled_from(sorted(TARGETS)))
@example({"size": "1X\u0661"}, BRIEFS[0], "hosted")
@example({"n": 10**400, "steps": 10**400, "cfg_scale": -(10**400)}, BRIEFS[0], "sdxl")
@settings(max_examples=max_examples(300), deadline=None)
def test_any_values_of_a_model_give_valid_settings(
    model: dict[str, Any], brief: str, family: str
) -> None:
    target, classification = TARGETS[family], classify(brief)
    config, warnings = resolve_settings(target, classification, model, {})
    plan = Plan(classification, config, (NamedPrompt("main", "a cat"),))
    requests = requests_for(plan, {}, hide_previews=False)
    assert len(requests) == config.n == (classification.count or config.n)
    for _, request in requests:
        check_request(request, Limits())
    if target.steps is not None:
        assert target.steps[0] <= (config.steps or 0) <= target.steps[2]
    else:
        assert (config.steps, config.cfg_scale, config.sampler) == (None, None, "")
    assert all(warning.field for warning in warnings)


@pytest.mark.parametrize(
    ("brief", "model", "shape"),
    [
        ("a cat", {}, ("", "")),
        ("a cat", {"aspect": "16:9"}, ("", "16:9")),
        ("a cat", {"size": " 1024 X 1024 ", "aspect": "16:9"}, ("1024x1024", "")),
        ("a cat, portrait", {}, ("", "2:3")),
        ("a cat, portrait", {"aspect": "9:16"}, ("", "9:16")),
        ("a cat, portrait", {"size": "1216x832"}, ("832x1216", "")),
        ("a cat, square", {"aspect": "16:9"}, ("", "1:1")),
        ("a cat, 4:5", {"size": "1216x832"}, ("", "4:5")),
        ("a cat, 640x480", {"size": "1216x832"}, ("640x512", "")),
        ("a cat", {"aspect": "99:1"}, ("", "")),
    ],
)
def test_size_or_aspect_is_chosen_from_brief_and_model(
    brief: str, model: dict[str, Any], shape: tuple[str, str]
) -> None:
    config, _ = resolve_settings(TARGETS["sdxl"], classify(brief), model, {})
    assert (config.size, config.aspect) == shape
