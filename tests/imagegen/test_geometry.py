from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import majordomo as md
from majordomo import imagegen
from majordomo.imagegen.geometry import Geometry, local_geometry
from majordomo.imagegen.request import check_request
from majordomo.settings import Limits

FREE = Geometry(
    multiple=16, min_side=256, max_side=3840, max_pixels=3840 * 2160, max_aspect_ratio=3.0
)
LISTED = Geometry(sizes=((1024, 1024), (1536, 1024), (1024, 1536)))


@pytest.mark.parametrize(
    ("model", "aspect", "megapixels", "expected"),
    [
        ("sdxl", "16:9", None, (1344, 768)),
        ("sd-1.5", "1:1", None, (512, 512)),
        ("dreamshaper-v1-5", "2:3", None, (448, 640)),
        ("sd2.1", "1:1", None, (768, 768)),
        ("flux", "", 0.25, (512, 512)),
        ("flux", "21:9", 2.0, (2176, 960)),
        ("flux", "1:16", 0.1, (64, 1024)),
    ],
)
def test_an_aspect_ratio_becomes_a_supported_size(
    model: str, aspect: str, megapixels: float | None, expected: tuple[int, int]
) -> None:
    ratio = imagegen.Request("a", aspect=aspect).ratio
    assert local_geometry(model).resolve(ratio, megapixels) == expected


@given(st.integers(1, 20_000), st.integers(1, 20_000), st.sampled_from([FREE, LISTED, Geometry()]))
def test_the_nearest_size_is_supported_and_stable(
    width: int, height: int, geometry: Geometry
) -> None:
    nearest = geometry.nearest((width, height))
    assert geometry.nearest(nearest) == nearest
    if geometry.sizes:
        assert nearest in geometry.sizes
    else:
        assert nearest[0] % geometry.multiple == nearest[1] % geometry.multiple == 0
        assert geometry.min_side <= min(nearest) <= max(nearest) <= geometry.max_side


@given(st.floats(1 / 16, 16), st.floats(0.01, 40))
def test_any_ratio_and_area_gives_a_supported_size(ratio: float, megapixels: float) -> None:
    for geometry in (FREE, LISTED, local_geometry("sdxl")):
        size = geometry.resolve(ratio, megapixels)
        assert size[0] * size[1] <= geometry.max_pixels * 1.05
        assert size in geometry.sizes if geometry.sizes else size[0] % geometry.multiple == 0


def test_the_aspect_ratio_has_priority_over_the_area() -> None:
    assert LISTED.nearest((512, 340)) == (1536, 1024)
    assert LISTED.nearest((2000, 2000)) == (1024, 1024)


def test_a_later_size_setting_replaces_an_earlier_one() -> None:
    preset = [md.with_image_size("512x512")]
    request = imagegen.Request("a", aspect="16:9").with_defaults(preset)
    assert (request.size, request.aspect) == ("", "16:9")
    assert imagegen.Request("a", aspect="16:9", megapixels=1).apply(*preset).size == "512x512"
    assert imagegen.Request("a", size="8x8").override(megapixels=0.5).size == ""
    assert imagegen.Request("a", size="8x8").override(aspect=None).size == "8x8"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"aspect": "16x9"}, "aspect"),
        ({"aspect": "0:1"}, "aspect"),
        ({"aspect": "100:1"}, "aspect"),
        ({"aspect": 1.5}, "aspect"),
        ({"megapixels": 41}, "megapixels"),
        ({"megapixels": 0}, "megapixels"),
        ({"megapixels": float("nan")}, "megapixels"),
        ({"megapixels": True}, "megapixels"),
        ({"size": "8x8", "aspect": "1:1"}, "aspect"),
    ],
)
def test_an_invalid_aspect_or_area_is_rejected(fields: dict[str, object], field: str) -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        check_request(imagegen.Request("a", **fields), Limits())  # type: ignore[arg-type]
    assert caught.value.field == field
