from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from PIL import Image

import majordomo as md
from majordomo.bots import fit_upload, fit_upload_sync
from majordomo.imaging import byte_budget as fitting
from majordomo.imaging import fit

Picture = Callable[..., md.ImagePart]


def noisy(
    width: int = 300, height: int = 200, mode: str = "RGB", kind: str = "PNG", seed: int = 1
) -> md.ImagePart:
    """An image that no encoding makes small."""
    chance = random.Random(seed)
    return md.ImagePart.from_pil(
        Image.frombytes(mode, (width, height), chance.randbytes(width * height * len(mode))), kind
    )


def test_what_fits_is_the_same_image(image: Picture) -> None:
    for kind in ("PNG", "WEBP", "JPEG"):
        given = image(kind=kind)
        assert fit(given, len(given.data)) is given


def test_another_encoding_comes_before_fewer_pixels() -> None:
    given = noisy()
    made = fit(given, len(given.data) // 2)
    assert (made.mime, made.width, made.height) == ("image/webp", 300, 200)
    assert len(made.data) <= len(given.data) // 2
    assert fit(given, len(given.data) // 2, ("jpeg",)).mime == "image/jpeg"
    assert fit(given, 10**9, ("jpeg", "png")) is given


def test_quality_is_given_up_no_further_than_needed() -> None:
    given = noisy()
    best = len(fit(given, 10**9, ("jpeg",)).data)
    assert best > len(fit(given, best - 1, ("jpeg",)).data) > best // 3


def test_then_it_has_fewer_pixels_but_keeps_its_shape() -> None:
    given = noisy(600, 400)
    made = fit(given, 20_000, min_side=50)
    assert len(made.data) <= 20_000
    assert 50 <= made.height < 400
    assert made.width / made.height == pytest.approx(1.5, rel=0.02)
    made = fit(given, 60_000, ("png",), min_side=50)
    assert made.mime == "image/png"
    assert len(made.data) <= 60_000


def test_the_smallest_side_is_tried_before_giving_up() -> None:
    given = noisy(600, 400)
    least = fit(given, 20_000, ("webp",), min_side=20)
    assert (
        fit(given, len(least.data) + 500, ("webp",), min_side=least.height).height >= least.height
    )
    with pytest.raises(md.InvalidRequestError) as caught:
        fit(given, 20_000, ("webp",), min_side=300)
    assert (caught.value.field, caught.value.code) == ("max_bytes", "IMAGE_TOO_LARGE")


def test_an_image_smaller_than_that_is_never_scaled() -> None:
    with pytest.raises(md.InvalidRequestError):
        fit(noisy(200, 100), 500, min_side=256)
    assert fit(noisy(200, 100), 20_000, min_side=256).height == 100


def test_transparency_stays_where_it_can_and_is_white_where_it_cannot(image: Picture) -> None:
    given = image(64, 64, (255, 0, 0, 0), mode="RGBA")
    assert fit(given, 10**6, ("webp",)).to_pil().convert("RGBA").getpixel((5, 5))[3] == 0  # type: ignore[index]
    assert fit(given, 10**6, ("jpeg",)).to_pil().getpixel((5, 5)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "I;16"])
def test_any_mode_goes(mode: str) -> None:
    image = (
        Image.new("I;16", (40, 30), 257 * 200)
        if mode == "I;16"
        else Image.new("L", (40, 30), 200).convert(mode)
    )
    made = fit(md.ImagePart.from_pil(image), 10**6, ("webp", "jpeg")).to_pil().convert("RGB")
    assert made.getpixel((3, 3)) == pytest.approx((255,) * 3 if mode == "1" else (200,) * 3, abs=4)


def test_it_is_turned_upright_and_tells_nothing_but_its_pixels() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "where I live"
    held = Image.new("RGB", (80, 40), "red")
    held.info["comment"] = b"where I live"
    import io

    out = io.BytesIO()
    held.save(out, "JPEG", exif=exif, comment=b"where I live")
    for kind in ("png", "webp"):
        made = fit(md.ImagePart(out.getvalue()), 10**6, (kind,))
        assert (made.width, made.height) == (40, 80)
        assert b"where I live" not in made.data


async def test_settings_are_kept_only_when_asked() -> None:
    drawn = (
        await md.Offline()
        .image_model("renderer")
        .generate("a boat", size="128x128", steps=3, seed=7)
    ).image
    assert drawn.parameters["prompt"] == "a boat"
    for kind in ("webp", "jpeg"):
        assert fit(drawn, 10**6, (kind,)).parameters == {}
        kept = fit(drawn, 10**6, (kind,), parameters=True)
        assert kept.parameters["prompt"] == "a boat"
        comment = kept.to_pil().getexif().get_ifd(0x8769)[0x9286]
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


def test_an_animation_becomes_its_first_image() -> None:
    import io

    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "blue")]
    held = io.BytesIO()
    frames[0].save(held, "GIF", save_all=True, append_images=frames[1:])
    given = md.ImagePart(held.getvalue())
    assert fit(given, 10**6, ("gif", "png")) is given
    assert fit(given, 10**6).to_pil().convert("RGB").getpixel((2, 2))[0] > 200  # type: ignore[index]


def test_a_color_profile_comes_along() -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    import io

    held = io.BytesIO()
    Image.new("RGB", (20, 20)).save(held, "PNG", icc_profile=profile)
    assert (
        fit(md.ImagePart(held.getvalue()), 10**6, ("webp",)).to_pil().info["icc_profile"] == profile
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
async def test_what_makes_no_sense_names_its_field(
    image: Picture, settings: dict[str, object], field: str
) -> None:
    asked = {"image": image(), "max_bytes": 1000, **settings}
    for call in (lambda: fit_upload_sync(**asked), lambda: fit(**asked)):  # type: ignore[arg-type]
        with pytest.raises(md.InvalidRequestError) as caught:
            call()
        assert caught.value.field == field
    with pytest.raises(md.InvalidRequestError) as caught:
        await fit_upload(**asked)  # type: ignore[arg-type]
    assert caught.value.field == field


async def test_a_broken_image_names_itself() -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        await fit_upload(md.ImagePart(noisy().data[:5000]), 1000)
    assert (caught.value.field, caught.value.code) == ("image", "BAD_IMAGE")


async def test_the_async_form_works_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    threads: list[int] = []
    real = fitting.decode
    monkeypatch.setattr(
        fitting, "decode", lambda *given: (threads.append(threading.get_ident()), real(*given))[1]
    )
    given = noisy()
    made = await fit_upload(given, 40_000)
    assert made == fit_upload_sync(given, 40_000)
    assert threads[0] != threading.get_ident() == threads[1]
    assert await fit_upload(given, 10**9) is given


async def test_a_cancellation_does_not_wait_for_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    began, go = threading.Event(), threading.Event()

    real = fitting.decode

    def slow(*given: Any) -> Any:
        began.set()
        go.wait(10)
        return real(*given)

    monkeypatch.setattr(fitting, "decode", slow)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(fit_upload, noisy(), 1000)
            while not began.is_set():
                await anyio.sleep(0.001)
            group.cancel_scope.cancel()
    finally:
        go.set()
