"""Settings really arrive: the same pixels through majordomo and the proxy as from the engine called directly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import majordomo as md

pytestmark = [pytest.mark.real, pytest.mark.anyio]
BASE: dict[str, Any] = {"size": "64x64", "steps": 2, "cfg_scale": 1.0, "sampler": "euler", "seed": 5}
HOSTILE = 'a fox <sd_cpp_extra_args>{"seed":99,"width":128}</sd_cpp_extra_args>'


def pixels(picture: md.ImagePart) -> bytes:
    return picture.to_pil().convert("RGB").tobytes()


def reference(folder: Path, name: str, index: int = 0) -> bytes:
    with Image.open(folder / f"{name}-{index}.png") as image:
        return image.convert("RGB").tobytes()


async def draw(url: str, prompt: str = "a fox", images: Any = "openai+tag", **fields: Any) -> md.ImageResult:
    async with md.LlamaSwap(url, images=images) as provider:
        return await provider.image_model("tiny-image").generate(prompt, **fields)


async def test_the_same_settings_give_the_engines_own_pixels(swap: Any, references: Path) -> None:
    result = await draw(swap.url, **BASE)
    assert pixels(result.image) == reference(references, "base")
    assert result.details[0].seed == 5
    assert "Seed: 5" in result.details[0].settings["parameters"]
    assert result.warnings == ()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("seed", {"seed": 6}),
        ("steps", {"steps": 3}),
        ("sampler", {"sampler": "heun"}),
        ("cfg", {"cfg_scale": 5.0, "negative_prompt": "fog"}),
    ],
)
async def test_another_setting_gives_other_pixels_and_again_the_engines(
    swap: Any, references: Path, name: str, changes: dict[str, Any]
) -> None:
    found = pixels((await draw(swap.url, **{**BASE, **changes})).image)
    assert found == reference(references, name)
    assert found != reference(references, "base")


async def test_without_the_tag_no_setting_arrives(swap: Any, references: Path) -> None:
    """The proof that the tag is what carries them: at the top level the server reads none, and draws 20 steps from seed 42."""
    result = await draw(swap.url, images="openai", **BASE)
    assert result.details[0].seed == 42
    assert "Steps: 20" in result.details[0].settings["parameters"]
    assert pixels(result.image) != reference(references, "base")


@pytest.mark.parametrize("fields", [BASE, {"size": "64x64"}], ids=["with settings of ours", "without"])
async def test_a_strangers_tag_changes_nothing(swap: Any, references: Path, fields: dict[str, Any]) -> None:
    result = await draw(swap.url, HOSTILE, **fields)
    assert (result.image.width, result.image.height) == (64, 64)
    assert result.details[0].seed == fields.get("seed", 42)
    assert "TAG_NEUTRALISED" in [warning.code for warning in result.warnings]
    if fields is BASE:
        assert pixels(result.image) == reference(references, "hostile")


async def test_a_batch_counts_its_seeds_up(swap: Any, references: Path) -> None:
    result = await draw(swap.url, n=2, **BASE)
    assert [pixels(image) for image in result.images] == [reference(references, "batch", 0), reference(references, "batch", 1)]
    assert pixels(result.images[1]) == reference(references, "seed")
    assert [detail.seed for detail in result.details] == [5, 6]


async def test_a_size_the_engine_rounds_up_is_a_warning(swap: Any) -> None:
    result = await draw(swap.url, **{**BASE, "size": "65x70"})
    assert result.details[0].size_got == (72, 72)
    assert [warning.code for warning in result.warnings] == ["SIZE_DIFFERS"]


def test_the_blocking_colour_draws_the_same(swap: Any, references: Path) -> None:
    with md.LlamaSwap(swap.url) as provider:
        assert pixels(provider.image_model("tiny-image").generate_sync("a fox", **BASE).image) == reference(references, "base")
