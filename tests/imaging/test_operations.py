from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import majordomo as md
from majordomo import imaging
from majordomo.imaging import (
    Convert,
    Crop,
    Derivative,
    Fit,
    Flatten,
    Optimize,
    Orient,
    Recipe,
    Resize,
    Sanitize,
    Text,
    Watermark,
)
from tests.support.sample_images import gradient, part

LINES = {
    "resize=1024": Recipe(Resize(1024, how="long_side")),
    "resize=800x600": Recipe(Resize(800, 600)),
    "resize=800x": Recipe(Resize(800)),
    "resize=x600:fast:enlarge": Recipe(Resize(height=600, fast=True, enlarge=True)),
    "resize=800x600:fill:top-left": Recipe(Resize(800, 600, "fill", anchor="top-left")),
    "resize:width=7:height=8:how=exact": Recipe(Resize(7, 8, "exact")),
    "crop=16:9:smart": Recipe(Crop(aspect="16:9", how="smart")),
    "crop=100x50:anchor=top": Recipe(Crop(width=100, height=50, anchor="top")),
    "crop=1/2/30/40": Recipe(Crop(box=(1, 2, 30, 40))),
    "strip": Recipe(Sanitize()),
    "sanitize:icc=no:apply:parameters": Recipe(Sanitize("apply", icc=False, parameters=True)),
    "orient": Recipe(Orient()),
    "rotate=90:mirror": Recipe(Orient(90, mirror=True)),
    "convert=JPG:quality=80": Recipe(Convert("jpeg", 80)),
    "convert=webp:lossless:srgb": Recipe(Convert("webp", lossless=True, colors="srgb")),
    "optimize": Recipe(Optimize()),
    "optimize:colors=16": Recipe(Optimize(16)),
    "fit=100000:formats=webp/jpeg:min_side=64": Recipe(Fit(100_000, ("webp", "jpeg"), 64)),
    "flatten=#ff0000": Recipe(Flatten("#ff0000")),
    "flatten": Recipe(Flatten()),
    "text=BLUE ROOM:anchor=top:size=0.12": Recipe(Text("BLUE ROOM", "top", 0.12)),
    r'text="Hello, \"world\": x\nnext":opacity=0.5': Recipe(
        Text('Hello, "world": x\nnext', opacity=0.5)
    ),
    "watermark=© me:tile:angle=30:opacity=0.2": Recipe(
        Watermark("© me", tile=True, angle=30.0, opacity=0.2)
    ),
    " resize=1024 , convert=webp , strip ": Recipe(
        Resize(1024, how="long_side"), Convert("webp"), Sanitize()
    ),
}


@pytest.mark.parametrize(("line", "recipe"), LINES.items(), ids=LINES.keys())
def test_a_line_is_parsed_into_its_steps(line: str, recipe: Recipe) -> None:
    assert Recipe.parse(line) == recipe


@pytest.mark.parametrize("recipe", LINES.values(), ids=LINES.keys())
def test_a_recipe_round_trips_through_json(recipe: Recipe) -> None:
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_the_image_of_a_watermark_round_trips_through_json() -> None:
    recipe = Recipe(Watermark(image=part(gradient(4, 4))))
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_json_omits_defaults() -> None:
    assert Recipe(Resize(10), Sanitize()).to_dict() == {
        "steps": [{"step": "resize", "width": 10}, {"step": "sanitize"}]
    }


INVALID_LINES = {
    "": "recipe",
    " , ": "recipe",
    "polish": "steps[0]",
    "strip,polish=3": "steps[1]",
    "strip=3": "steps[0]",
    "resize": "steps[0].width",
    "resize=big": "steps[0].width",
    "resize=0": "steps[0].width",
    "resize=99999999": "steps[0].width",
    "resize=1024:shiny": "steps[0].shiny",
    "resize=1024:fast=maybe": "steps[0].fast",
    "resize=1024:depth=3": "steps[0].depth",
    "crop=1/2/3": "steps[0].box",
    "crop=0:9": "steps[0].aspect",
    "crop=30/30/10/10": "steps[0].box",
    "convert=gif": "steps[0].format",
    "convert=png:quality=3": "steps[0].quality",
    "convert=webp:quality=101": "steps[0].quality",
    "fit": "steps[0].max_bytes",
    "fit=0": "steps[0].max_bytes",
    "fit=9:formats=gif": "steps[0].formats",
    "text=": "steps[0].text",
    "text": "steps[0].text",
    "text=a:opacity=2": "steps[0].opacity",
    "text=a:size=nan": "steps[0].size",
    "text=a:anchor=middle": "steps[0].anchor",
    "watermark": "steps[0].text",
    "optimize:colors=1": "steps[0].colors",
    "rotate=45": "steps[0].turn",
    ",".join(["strip"] * 101): "recipe",
    "text=" + "a" * 2001: "steps[0].text",
    "text=" + "a" * 30_000: "recipe",
}


@pytest.mark.parametrize(("line", "field"), INVALID_LINES.items(), ids=lambda text: text[:40])
def test_an_invalid_line_names_the_step_and_the_field(line: str, field: str) -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        Recipe.parse(line)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("values", "field"),
    [
        (None, "steps"),
        ({}, "steps"),
        ({"steps": "strip"}, "steps"),
        ({"steps": [{}] * 101}, "steps"),
        ({"steps": [3]}, "steps[0]"),
        ({"steps": [{"width": 3}]}, "steps[0]"),
        ({"steps": [{"step": "resize", "wdth": 3}]}, "steps[0].wdth"),
        ({"steps": [{"step": "resize", "width": "3"}]}, "steps[0].width"),
        ({"steps": [{"step": "resize", "width": True}]}, "steps[0].width"),
        ({"steps": [{"step": "resize", "width": 3, "fast": 1}]}, "steps[0].fast"),
        ({"steps": [{"step": "sanitize", "icc": None}]}, "steps[0].icc"),
        ({"steps": [{"step": "convert", "format": None}]}, "steps[0].format"),
        ({"steps": [{"step": "convert", "format": ["png"]}]}, "steps[0].format"),
        ({"steps": [{"step": "convert", "format": "png", "background": 3}]}, "steps[0].background"),
        ({"steps": [{"step": "fit", "max_bytes": None}]}, "steps[0].max_bytes"),
        ({"steps": [{"step": "fit", "max_bytes": 9, "formats": []}]}, "steps[0].formats"),
        ({"steps": [{"step": "fit", "max_bytes": 9, "formats": [[]]}]}, "steps[0].formats"),
        ({"steps": [{"step": "crop", "box": 5}]}, "steps[0].box"),
        ({"steps": [{"step": "crop", "box": [0, 0, 1.5, 2]}]}, "steps[0].box"),
        ({"steps": [{"step": "crop", "box": [0, 0, 1, 2], "aspect": "1:1"}]}, "steps[0].box"),
        ({"steps": [{"step": "text", "text": 5}]}, "steps[0].text"),
        ({"steps": [{"step": "text", "text": "a\0"}]}, "steps[0].text"),
        ({"steps": [{"step": "text", "text": "a", "size": None}]}, "steps[0].size"),
        ({"steps": [{"step": "text", "text": "a", "font": 5}]}, "steps[0].font"),
        (
            {"steps": [{"step": "watermark", "text": "a", "image": "data:image/png;base64,AAAA"}]},
            "steps[0].image",
        ),
        (
            {"steps": [{"step": "watermark", "image": "https://example.com/a.png"}]},
            "steps[0].image",
        ),
        ({"steps": [{"step": "watermark", "image": 5}]}, "steps[0].image"),
    ],
)
def test_invalid_json_names_the_step_and_the_field(values: object, field: str) -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        Recipe.from_dict(values)
    assert caught.value.field == field


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
NAMES = st.sampled_from(
    [
        "sanitize",
        "resize",
        "crop",
        "convert",
        "text",
        "watermark",
        "fit",
        "orient",
        "optimize",
        "flatten",
        "other",
    ]
)
FIELDS = st.sampled_from(
    [
        "width",
        "height",
        "how",
        "box",
        "kind",
        "text",
        "image",
        "formats",
        "max_bytes",
        "turn",
        "quality",
        "aspect",
        "anchor",
        "icc",
    ]
)


@given(
    st.lists(
        st.builds(
            lambda name, rest: {**rest, "step": name},
            NAMES,
            st.dictionaries(FIELDS, JSON, max_size=4),
        ),
        max_size=3,
    )
)
def test_any_json_is_a_recipe_or_a_typed_error(steps: list[object]) -> None:
    try:
        recipe = Recipe.from_dict({"steps": steps})
    except md.InvalidRequestError as error:
        assert (error.field or "").startswith("steps")
    else:
        assert Recipe.from_dict(recipe.to_dict()) == recipe


@given(st.text(max_size=60) | st.text('resizcoptxwam=:,x/"0123456789.-# \\', max_size=60))
def test_any_line_is_a_recipe_or_a_typed_error(line: str) -> None:
    try:
        assert len(Recipe.parse(line)) > 0
    except md.InvalidRequestError as error:
        assert error.field


def test_adding_steps_and_recipes_keeps_their_order() -> None:
    a, b, c = Resize(10), Sanitize(), Convert("webp")
    assert (
        a + b + c
        == Recipe(a, b) + c
        == Recipe(a) + Recipe(b, c)
        == a + Recipe(b, c)
        == Recipe(a, b, c)
    )
    assert list(Recipe(a, b)) == [a, b]
    assert len(Recipe()) == 0


def test_a_recipe_accepts_steps_only() -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        Recipe(Resize(1), "strip")  # type: ignore[arg-type]
    assert caught.value.field == "steps[1]"


def test_values_are_hashable_and_frozen() -> None:
    assert len({Resize(1), Resize(1), Recipe(Resize(1)), Recipe(Resize(1))}) == 2
    with pytest.raises(AttributeError):
        Resize(1).width = 2  # type: ignore[misc]


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", "a" * 65, "-a", ".a", 5])
def test_an_unsafe_derivative_name_is_rejected(name: str) -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        Derivative(name)
    assert caught.value.field == "name"


def test_every_public_name_is_available() -> None:
    for name in imaging.__all__:
        assert getattr(imaging, name) is not None
    assert set(imaging.__all__) <= set(dir(imaging))
    assert set(imaging._NAMES) == set(imaging.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        imaging.nothing  # noqa: B018


def modules_imported_by(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}; print(' '.join(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_importing_and_parsing_a_recipe_do_not_import_pillow() -> None:
    code = (
        "from majordomo import imaging; r = imaging.Recipe.parse('resize=64,strip,text=a');"
        "imaging.Recipe.from_dict(r.to_dict()); imaging.Derivative('a', r, size=3);"
        "imaging.STANDARD_SET; imaging.in_thread"
    )
    assert not any(name == "PIL" or name.startswith("PIL.") for name in modules_imported_by(code))


def test_names_are_functions_in_any_import_order() -> None:
    code = (
        "import majordomo.imaging.derivation, majordomo.imaging.recipe_runner as runner;"
        "from majordomo import imaging; assert imaging.apply is runner.apply;"
        "assert callable(imaging.derive); assert callable(imaging.fit);"
        "assert callable(imaging.compare)"
    )
    modules_imported_by(code)
