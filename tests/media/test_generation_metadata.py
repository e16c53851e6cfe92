from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import majordomo as md
from majordomo.media.generation_metadata import read_parameters, write_parameters
from majordomo.media.image_containers import png_text, with_text

MakeImage = Callable[..., md.ImagePart]
A1111 = (
    "a (red:1.2) fox, Seed: 1\nNegative prompt: blurry, Seed: 2\n"
    "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 4.5, Seed: 99, Size: 64x48,"
    ' Model hash: ab12, Model: "a, b", Version: v1.10'
)
SDCPP = (
    "a fox\nSteps: 9, CFG scale: 2.500000, Guidance: 3.5, Eta: 0, Seed: 42, Size: 64x64,"
    " Model: tiny.gguf, RNG: cuda, Sampler: euler_a discrete, "
    'SDCPP: {"prompt":"a, b","seed":42}, Version: stable-diffusion.cpp'
)
GRAPH = {
    "3": {"class_type": "KSampler", "inputs": {"seed": 7, "steps": 5, "cfg": 2.0,
          "sampler_name": "euler", "scheduler": "karras",
          "positive": ["6", 0], "negative": ["7", 0]}},
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "m.safetensors"}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox"}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "rain"}},
}  # fmt: skip


def test_the_text_of_a1111_is_parsed() -> None:
    parameters = read_parameters({"parameters": A1111})
    assert parameters["prompt"] == "a (red:1.2) fox, Seed: 1"
    assert parameters["negative_prompt"] == "blurry, Seed: 2"
    assert (
        parameters["steps"],
        parameters["sampler"],
        parameters["scheduler"],
        parameters["cfg_scale"],
    ) == (
        20,
        "DPM++ 2M",
        "Karras",
        4.5,
    )
    assert (parameters["seed"], parameters["size"], parameters["model"], parameters["Version"]) == (
        99,
        "64x48",
        "a, b",
        "v1.10",
    )


def test_the_text_of_stable_diffusion_cpp_is_parsed() -> None:
    parameters = read_parameters({"parameters": SDCPP})
    assert (
        parameters["prompt"],
        parameters["seed"],
        parameters["steps"],
        parameters["sampler"],
    ) == (
        "a fox",
        42,
        9,
        "euler_a discrete",
    )


def test_the_graph_of_comfyui_is_parsed() -> None:
    assert read_parameters({"prompt": json.dumps(GRAPH)}) == {
        "seed": 7, "steps": 5, "cfg_scale": 2.0, "sampler": "euler", "scheduler": "karras",
        "prompt": "a fox", "negative_prompt": "rain", "model": "m.safetensors",
    }  # fmt: skip
    two = GRAPH | {"9": {"class_type": "KSampler", "inputs": {"seed": 8}}}
    assert "seed" not in read_parameters({"prompt": json.dumps(two)})


@given(st.dictionaries(st.sampled_from(["parameters", "prompt"]), st.text()))
def test_any_text_is_parsed_without_an_error(texts: dict[str, str]) -> None:
    read_parameters(texts)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "steps": st.integers(1, 1000),
            "seed": st.integers(0, 2**63),
            "sampler": st.text("abcDPM+ 2", min_size=1).filter(str.strip).map(str.strip),
            "model": st.text(
                st.characters(
                    exclude_categories=["Cs", "Cc", "Zl", "Zp", "Zs"], exclude_characters="\x85"
                ),
                min_size=1,
            ),
        },
    )
)
def test_what_is_written_is_read(values: dict[str, object]) -> None:
    parameters = read_parameters({"parameters": write_parameters({"prompt": "a fox", **values})})
    assert {"prompt": "a fox", **values}.items() <= parameters.items()


def test_a_saved_image_contains_its_parameters(image: MakeImage, tmp_path: Path) -> None:
    plain = image()
    tagged = plain.with_parameters(
        {
            "prompt": "ein Fuchs äöü 🦊",
            "negative_prompt": "rain",
            "steps": 5,
            "seed": 7,
            "size": "64x48",
            "model": None,
        }
    )
    assert tagged == plain
    assert plain.parameters == {}
    assert tagged.parameters["seed"] == 7
    without = md.ImagePart.from_file(tagged.save(tmp_path / "plain"))
    assert without == plain
    again = md.ImagePart.from_file(tagged.save(tmp_path / "noted", metadata=True))
    assert again.parameters == tagged.parameters
    assert again.parameters["prompt"] == "ein Fuchs äöü 🦊"
    assert again.to_pil().tobytes() == plain.to_pil().tobytes()
    with Image.open(tmp_path / "noted.png") as image:
        assert image.info["parameters"].startswith("ein Fuchs äöü 🦊")
    with pytest.raises(FileExistsError):
        tagged.save(tmp_path / "noted.png", metadata=True)


def test_the_text_of_the_backend_is_kept(image: MakeImage, tmp_path: Path) -> None:
    tagged = md.ImagePart(with_text(image().data, "parameters", A1111)).with_parameters(
        {"prompt": "other"}
    )
    assert tagged.parameters["seed"] == 99
    assert md.ImagePart.from_file(tagged.save(tmp_path / "a", metadata=True)) == tagged
    assert png_text(tagged.data)["parameters"] == A1111


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_metadata_of_a_jpeg_or_webp_is_a_user_comment(
    image: MakeImage, tmp_path: Path, kind: str
) -> None:
    original = image(kind=kind)
    saved = md.ImagePart.from_file(
        original.with_parameters({"prompt": "a größe, \u6d77", "seed": 7}).save(
            tmp_path / "a", metadata=True
        )
    )
    assert (saved.parameters["prompt"], saved.parameters["seed"]) == ("a größe, \u6d77", 7)
    assert saved.to_pil().tobytes() == original.to_pil().tobytes()


def test_metadata_of_a_gif_raises_an_error(image: MakeImage, tmp_path: Path) -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        image(kind="GIF").save(tmp_path / "a", metadata=True)
    assert caught.value.field == "metadata"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        ("a\nSteps: 5, seed: (3", {"prompt": "a", "steps": 5}),
        ("a\nSteps: 5, seed: 3", {"prompt": "a", "steps": 5, "seed": 3}),
        ("a\nSteps: 5, Seed: 4, seed: 3", {"prompt": "a", "steps": 5, "seed": 4}),
        ("a\nSteps: 5, CFG scale: nan, size: 9", {"prompt": "a", "steps": 5}),
        ("a\nSteps: 5, CFG scale: 1e999", {"prompt": "a", "steps": 5}),
    ],
)
def test_invalid_values_in_text_are_ignored(text: str, parameters: dict[str, Any]) -> None:
    assert read_parameters({"parameters": text}) == parameters


def test_invalid_values_in_a_graph_are_ignored() -> None:
    inputs = {
        "seed": "7",
        "steps": 1.5,
        "cfg": float("inf"),
        "sampler_name": 3,
        "scheduler": ["4", 0],
    }
    assert read_parameters({"prompt": json.dumps({"3": {"inputs": inputs}})}) == {"seed": 7}
