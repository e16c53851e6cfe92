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
    'Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 4.5, Seed: 99, Size: 64x48, Model hash: ab12, Model: "a, b", Version: v1.10'
)
SDCPP = (
    "a fox\nSteps: 9, CFG scale: 2.500000, Guidance: 3.5, Eta: 0, Seed: 42, Size: 64x64, Model: tiny.gguf, RNG: cuda, Sampler: euler_a discrete, "
    'SDCPP: {"prompt":"a, b","seed":42}, Version: stable-diffusion.cpp'
)
GRAPH = {
    "3": {"class_type": "KSampler", "inputs": {"seed": 7, "steps": 5, "cfg": 2.0, "sampler_name": "euler", "scheduler": "karras",
          "positive": ["6", 0], "negative": ["7", 0]}},
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "m.safetensors"}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox"}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "rain"}},
}  # fmt: skip


def test_a1111s_text() -> None:
    found = read_parameters({"parameters": A1111})
    assert found["prompt"] == "a (red:1.2) fox, Seed: 1"
    assert found["negative_prompt"] == "blurry, Seed: 2"
    assert (found["steps"], found["sampler"], found["scheduler"], found["cfg_scale"]) == (
        20,
        "DPM++ 2M",
        "Karras",
        4.5,
    )
    assert (found["seed"], found["size"], found["model"], found["Version"]) == (
        99,
        "64x48",
        "a, b",
        "v1.10",
    )


def test_stable_diffusion_cpps_text() -> None:
    found = read_parameters({"parameters": SDCPP})
    assert (found["prompt"], found["seed"], found["steps"], found["sampler"]) == (
        "a fox",
        42,
        9,
        "euler_a discrete",
    )


def test_comfyuis_graph() -> None:
    assert read_parameters({"prompt": json.dumps(GRAPH)}) == {
        "seed": 7, "steps": 5, "cfg_scale": 2.0, "sampler": "euler", "scheduler": "karras", "prompt": "a fox", "negative_prompt": "rain",
        "model": "m.safetensors",
    }  # fmt: skip
    two = GRAPH | {"9": {"class_type": "KSampler", "inputs": {"seed": 8}}}
    assert "seed" not in read_parameters({"prompt": json.dumps(two)})


@given(st.dictionaries(st.sampled_from(["parameters", "prompt"]), st.text()))
def test_any_text_is_read_without_an_error(texts: dict[str, str]) -> None:
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
    found = read_parameters({"parameters": write_parameters({"prompt": "a fox", **values})})
    assert {"prompt": "a fox", **values}.items() <= found.items()


def test_a_saved_image_says_what_it_was_made_with(image: MakeImage, tmp_path: Path) -> None:
    plain = image()
    noted = plain.with_parameters(
        {
            "prompt": "ein Fuchs äöü 🦊",
            "negative_prompt": "rain",
            "steps": 5,
            "seed": 7,
            "size": "64x48",
            "model": None,
        }
    )
    assert noted == plain
    assert plain.parameters == {}
    assert noted.parameters["seed"] == 7
    without = md.ImagePart.from_file(noted.save(tmp_path / "plain"))
    assert without == plain
    again = md.ImagePart.from_file(noted.save(tmp_path / "noted", metadata=True))
    assert again.parameters == noted.parameters
    assert again.parameters["prompt"] == "ein Fuchs äöü 🦊"
    assert again.to_pil().tobytes() == plain.to_pil().tobytes()
    with Image.open(tmp_path / "noted.png") as image:
        assert image.info["parameters"].startswith("ein Fuchs äöü 🦊")
    with pytest.raises(FileExistsError):
        noted.save(tmp_path / "noted.png", metadata=True)


def test_the_backends_own_text_is_kept(image: MakeImage, tmp_path: Path) -> None:
    told = md.ImagePart(with_text(image().data, "parameters", A1111)).with_parameters(
        {"prompt": "other"}
    )
    assert told.parameters["seed"] == 99
    assert md.ImagePart.from_file(told.save(tmp_path / "a", metadata=True)) == told
    assert png_text(told.data)["parameters"] == A1111


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_metadata_goes_into_files_without_text_chunks_as_a_user_comment(
    image: MakeImage, tmp_path: Path, kind: str
) -> None:
    given = image(kind=kind)
    saved = md.ImagePart.from_file(
        given.with_parameters({"prompt": "a größe, \u6d77", "seed": 7}).save(
            tmp_path / "a", metadata=True
        )
    )
    assert (saved.parameters["prompt"], saved.parameters["seed"]) == ("a größe, \u6d77", 7)
    assert saved.to_pil().tobytes() == given.to_pil().tobytes()


def test_metadata_does_not_go_into_a_gif(image: MakeImage, tmp_path: Path) -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        image(kind="GIF").save(tmp_path / "a", metadata=True)
    assert caught.value.field == "metadata"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a\nSteps: 5, seed: (3", {"prompt": "a", "steps": 5}),
        ("a\nSteps: 5, seed: 3", {"prompt": "a", "steps": 5, "seed": 3}),
        ("a\nSteps: 5, Seed: 4, seed: 3", {"prompt": "a", "steps": 5, "seed": 4}),
        ("a\nSteps: 5, CFG scale: nan, size: 9", {"prompt": "a", "steps": 5}),
        ("a\nSteps: 5, CFG scale: 1e999", {"prompt": "a", "steps": 5}),
    ],
)
def test_a_field_has_its_own_kind_of_value_or_none(text: str, found: dict[str, Any]) -> None:
    assert read_parameters({"parameters": text}) == found


def test_a_graph_cannot_say_another_kind_of_value_either() -> None:
    inputs = {
        "seed": "7",
        "steps": 1.5,
        "cfg": float("inf"),
        "sampler_name": 3,
        "scheduler": ["4", 0],
    }
    assert read_parameters({"prompt": json.dumps({"3": {"inputs": inputs}})}) == {"seed": 7}
