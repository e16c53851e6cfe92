"""Images within an upload limit: encodings, scaling, metadata and errors."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from PIL import Image

import majordomo as md
from majordomo.bots import fit_upload, fit_upload_sync
from majordomo.imaging import byte_budget, fit
from tests.support.wait_until import wait_until

MakeImage = Callable[..., md.ImagePart]


def noisy(
    width: int = 300, height: int = 200, mode: str = "RGB", kind: str = "PNG", seed: int = 1
) -> md.ImagePart:
    """Return an image of noise, which no encoding compresses well."""
    generator = random.Random(seed)
    return md.ImagePart.from_pil(
        Image.frombytes(mode, (width, height), generator.randbytes(width * height * len(mode))),
        kind,
    )


def test_an_image_that_fits_is_returned_unchanged(image: MakeImage) -> None:
    for kind in ("PNG", "WEBP", "JPEG"):
        original = image(kind=kind)
        assert fit(original, len(original.data)) is original


def test_another_encoding_is_tried_before_scaling() -> None:
    original = noisy()
    fitted = fit(original, len(original.data) // 2)
    assert (fitted.mime, fitted.width, fitted.height) == ("image/webp", 300, 200)
    assert len(fitted.data) <= len(original.data) // 2
    assert fit(original, len(original.data) // 2, ("jpeg",)).mime == "image/jpeg"
    assert fit(original, 10**9, ("jpeg", "png")) is original


def test_quality_is_reduced_only_as_far_as_needed() -> None:
    original = noisy()
    best = len(fit(original, 10**9, ("jpeg",)).data)
    assert best > len(fit(original, best - 1, ("jpeg",)).data) > best // 3


def test_scaling_keeps_the_aspect_ratio() -> None:
    original = noisy(600, 400)
    fitted = fit(original, 20_000, min_side=50)
    assert len(fitted.data) <= 20_000
    assert 50 <= fitted.height < 400
    assert fitted.width / fitted.height == pytest.approx(1.5, rel=0.02)
    fitted = fit(original, 60_000, ("png",), min_side=50)
    assert fitted.mime == "image/png"
    assert len(fitted.data) <= 60_000


def test_the_minimum_side_is_tried_before_raising() -> None:
    original = noisy(600, 400)
    least = fit(original, 20_000, ("webp",), min_side=20)
    assert (
        fit(original, len(least.data) + 500, ("webp",), min_side=least.height).height
        >= least.height
    )
    with pytest.raises(md.InvalidRequestError) as caught:
        fit(original, 20_000, ("webp",), min_side=300)
    assert (caught.value.field, caught.value.code) == ("max_bytes", "IMAGE_TOO_LARGE")


def test_an_image_below_the_minimum_side_is_not_scaled() -> None:
    with pytest.raises(md.InvalidRequestError):
        fit(noisy(200, 100), 500, min_side=256)
    assert fit(noisy(200, 100), 20_000, min_side=256).height == 100


def test_transparency_is_kept_or_becomes_white(image: MakeImage) -> None:
    original = image(64, 64, (255, 0, 0, 0), mode="RGBA")
    assert fit(original, 10**6, ("webp",)).to_pil().convert("RGBA").getpixel((5, 5))[3] == 0  # type: ignore[index]
    assert fit(original, 10**6, ("jpeg",)).to_pil().getpixel((5, 5)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "I;16"])
def test_every_pixel_mode_is_accepted(mode: str) -> None:
    image = (
        Image.new("I;16", (40, 30), 257 * 200)
        if mode == "I;16"
        else Image.new("L", (40, 30), 200).convert(mode)
    )
    fitted = fit(md.ImagePart.from_pil(image), 10**6, ("webp", "jpeg")).to_pil().convert("RGB")
    assert fitted.getpixel((3, 3)) == pytest.approx(
        (255,) * 3 if mode == "1" else (200,) * 3, abs=4
    )


def test_orientation_is_applied_and_metadata_is_removed() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "where I live"
    source = Image.new("RGB", (80, 40), "red")
    source.info["comment"] = b"where I live"
    import io

    out = io.BytesIO()
    source.save(out, "JPEG", exif=exif, comment=b"where I live")
    for kind in ("png", "webp"):
        fitted = fit(md.ImagePart(out.getvalue()), 10**6, (kind,))
        assert (fitted.width, fitted.height) == (40, 80)
        assert b"where I live" not in fitted.data


async def test_generation_parameters_are_kept_only_on_request() -> None:
    generated = (
        await md.Offline()
        .image_model("renderer")
        .generate("a boat", size="128x128", steps=3, seed=7)
    ).image
    assert generated.parameters["prompt"] == "a boat"
    for kind in ("webp", "jpeg"):
        assert fit(generated, 10**6, (kind,)).parameters == {}
        with_parameters = fit(generated, 10**6, (kind,), parameters=True)
        assert with_parameters.parameters["prompt"] == "a boat"
        comment = with_parameters.to_pil().getexif().get_ifd(0x8769)[0x9286]
        assert comment.startswith(b"UNICODE\0")
        assert "a boat" in comment[8:].decode("utf-16-be")
    small = fit(
        noisy().with_parameters({"prompt": "a boat"}),
        60_000,
        ("png",),
        min_side=50,
        parameters=True,
    )
    assert md.ImagePart(small.data).parameters["prompt"] == "a boat"


def test_an_animation_becomes_its_first_frame() -> None:
    import io

    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    original = md.ImagePart(file.getvalue())
    assert fit(original, 10**6, ("gif", "png")) is original
    assert fit(original, 10**6).to_pil().convert("RGB").getpixel((2, 2))[0] > 200  # type: ignore[index]


def test_a_color_profile_is_kept() -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    import io

    file = io.BytesIO()
    Image.new("RGB", (20, 20)).save(file, "PNG", icc_profile=profile)
    assert (
        fit(md.ImagePart(file.getvalue()), 10**6, ("webp",)).to_pil().info["icc_profile"] == profile
    )


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"image": b"bytes"}, "image"),
        ({"max_bytes": 0}, "max_bytes"),
        ({"formats": ("bmp",)}, "formats"),
        ({"formats": ("gif",)}, "formats"),
        ({"formats": "png"}, "formats"),
        ({"formats": ()}, "formats"),
        ({"min_side": 0}, "min_side"),
    ],
)
async def test_an_invalid_argument_is_named_by_its_field(
    image: MakeImage, settings: dict[str, object], field: str
) -> None:
    arguments = {"image": image(), "max_bytes": 1000, **settings}
    for call in (lambda: fit_upload_sync(**arguments), lambda: fit(**arguments)):  # type: ignore[arg-type]
        with pytest.raises(md.InvalidRequestError) as caught:
            call()
        assert caught.value.field == field
    with pytest.raises(md.InvalidRequestError) as caught:
        await fit_upload(**arguments)  # type: ignore[arg-type]
    assert caught.value.field == field


async def test_a_broken_image_is_named_by_the_error() -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        await fit_upload(md.ImagePart(noisy().data[:5000]), 1000)
    assert (caught.value.field, caught.value.code) == ("image", "BAD_IMAGE")


async def test_the_async_version_works_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    threads: list[int] = []
    decode = byte_budget.decode
    monkeypatch.setattr(
        byte_budget,
        "decode",
        lambda *arguments: (threads.append(threading.get_ident()), decode(*arguments))[1],
    )
    original = noisy()
    fitted = await fit_upload(original, 40_000)
    assert fitted == fit_upload_sync(original, 40_000)
    assert threads[0] != threading.get_ident() == threads[1]
    assert await fit_upload(original, 10**9) is original


async def test_a_cancellation_does_not_wait_for_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    started, proceed = threading.Event(), threading.Event()

    decode = byte_budget.decode

    def slow(*arguments: Any) -> Any:
        started.set()
        proceed.wait(10)
        return decode(*arguments)

    monkeypatch.setattr(byte_budget, "decode", slow)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(fit_upload, noisy(), 1000)
            await wait_until(started.is_set)
            group.cancel_scope.cancel()
    finally:
        proceed.set()
