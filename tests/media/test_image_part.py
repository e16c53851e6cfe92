from __future__ import annotations

import copy
import io
import os
import pickle
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import majordomo as md
from majordomo.media.image_containers import png_text
from majordomo.media.image_header import read_header

MakeImage = Callable[..., md.ImagePart]
KINDS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (64, 48), (3, 2000), (300, 1)])
def test_type_and_size_are_read_from_the_bytes(
    image: MakeImage, kind: str, size: tuple[int, int]
) -> None:
    part = image(*size, kind=kind)
    assert (part.mime, part.width, part.height) == (KINDS[kind], *size)
    assert md.ImagePart(part.data, mime="image/tiff").mime == KINDS[kind]


@pytest.mark.parametrize(
    "options", [{"lossless": True}, {"quality": 50}, {"exif": b"Exif\0\0" + b"\0" * 20}], ids=str
)
def test_every_kind_of_webp_is_read(options: dict[str, object]) -> None:
    buffer = io.BytesIO()
    Image.new("RGBA" if "lossless" in options else "RGB", (301, 77), "red").save(
        buffer, "WEBP", **options
    )
    part = md.ImagePart(buffer.getvalue())
    assert (part.width, part.height) == (301, 77)


@pytest.mark.parametrize(
    "options",
    [{"progressive": True}, {"exif": b"Exif\0\0" + b"\0" * 5000}, {"comment": b"x" * 3000}],
    ids=lambda o: next(iter(o)),
)
def test_a_jpeg_may_have_segments_before_its_frame(options: dict[str, object]) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (33, 22)).save(buffer, "JPEG", **options)
    assert (md.ImagePart(buffer.getvalue()).width, md.ImagePart(buffer.getvalue()).height) == (
        33,
        22,
    )


@given(
    st.sampled_from(
        [
            b"\x89PNG\r\n\x1a\n",
            b"\xff\xd8\xff",
            b"GIF89a",
            b"RIFF\0\0\0\0WEBPVP8X",
            b"RIFF\0\0\0\0WEBPVP8 ",
            b"RIFF\0\0\0\0WEBPVP8L",
            b"",
        ]
    ),
    st.binary(max_size=60),
)
def test_any_bytes_are_an_image_or_rejected(start: bytes, rest: bytes) -> None:
    header = read_header(start + rest)
    if header is None:
        with pytest.raises(md.InvalidRequestError):
            md.ImagePart(start + rest)
    else:
        assert header.width > 0
        assert header.height > 0


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>",
        b"\x89PNG\r\n\x1a\n",
        b"BM" + b"\0" * 50,
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 0, 5),
        b"%PDF-1.4",
    ],
)
def test_bytes_that_are_not_an_image_are_rejected(data: bytes) -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        md.ImagePart(data)
    assert (caught.value.field, caught.value.code) == ("data", "NOT_AN_IMAGE")
    with pytest.raises(md.InvalidRequestError):
        md.ImagePart("text")  # type: ignore[arg-type]


def test_an_image_round_trips_through_every_representation(
    image: MakeImage, tmp_path: Path
) -> None:
    part = image()
    assert md.ImagePart.from_base64(part.to_base64()) == part
    assert md.ImagePart.from_base64(part.to_base64().encode()) == part
    assert md.ImagePart.from_data_url(part.to_data_url()) == part
    assert md.ImagePart.from_file(part.save(tmp_path / "x")) == part
    assert md.ImagePart(bytearray(part.data)) == part
    assert md.ImagePart.from_pil(part.to_pil()).to_pil().tobytes() == part.to_pil().tobytes()
    assert {part, md.ImagePart(part.data)} == {part}
    assert part != image(color="red")
    assert part.sha256 == md.ImagePart(part.data).sha256 != image(color="red").sha256
    assert pickle.loads(pickle.dumps(part)) == copy.deepcopy(part) == part
    assert part._repr_mimebundle_() == {"image/png": part.data}
    assert repr(part) == f"<ImagePart image/png 64x48, {len(part.data)} bytes>"


def test_an_image_that_a_format_cannot_store_raises_a_typed_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for mode, kind in (("RGBA", "JPEG"), ("F", "PNG"), ("RGB", "TIFF")):
        with pytest.raises(md.InvalidRequestError) as caught:
            md.ImagePart.from_pil(Image.new(mode, (4, 4)), kind)
        assert caught.value.field == "format"
    Image.init()
    monkeypatch.delitem(Image.SAVE, "AVIF", raising=False)  # as where Pillow was built without it
    with pytest.raises(md.InvalidRequestError) as caught:
        md.ImagePart.from_pil(Image.new("RGB", (4, 4)), "AVIF")
    assert caught.value.field == "format"


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.test/x.png",
        "data:image/png,xx",
        "data:image/png;base64",
        "file:///etc/passwd",
        "data:image/png;base64,PGh0bWw+",
    ],
)
def test_only_base64_data_urls_of_images_are_accepted(url: str) -> None:
    with pytest.raises(md.InvalidRequestError):
        md.ImagePart.from_data_url(url)


def test_broken_pixels_raise_a_typed_error(image: MakeImage) -> None:
    for kind in KINDS:
        encoded = image(200, 200, kind=kind).data
        noise = random.Random(4).randbytes(len(encoded))
        for broken in (encoded[: len(encoded) // 2], encoded[:40] + noise[40:]):
            try:
                part = md.ImagePart(broken)
            except md.InvalidRequestError:
                continue
            try:
                part.to_pil()
            except md.InvalidRequestError as error:
                assert error.field == "data"


@pytest.mark.parametrize(
    "name",
    [
        "cat",
        "../../etc/passwd",
        "/etc/passwd",
        "..",
        "",
        "a/b\\c",
        "x" * 500,
        "con",
        "a\0b\n",
        "cat.png",
        ".hidden",
        "übung.jpg",
        "C:\\x",
    ],
)
def test_an_untrusted_name_never_leaves_the_folder_and_never_overwrites(
    image: MakeImage, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    first, second = image().save_in(folder, name), image(color="red").save_in(folder, name)
    assert first != second
    assert {first.resolve().parent, second.resolve().parent} == {folder.resolve()}
    assert first.suffix == ".png"
    assert not first.name.startswith(".")
    assert first.read_bytes() == image().data
    assert sorted(os.listdir(folder)) == sorted({first.name, second.name})


def test_saving_does_not_overwrite_by_default(image: MakeImage, tmp_path: Path) -> None:
    path = image().save(tmp_path / "a.png")
    with pytest.raises(FileExistsError):
        image().save(path)
    assert image(color="red").save(path, overwrite=True).read_bytes() == image(color="red").data


def test_all_text_chunks_are_read_and_broken_ones_skipped() -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("plain", "a")
    info.add_text("packed", "b" * 1000, zip=True)
    info.add_itxt("wide", "größe", zip=True)
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, "PNG", pnginfo=info)
    data = buffer.getvalue()
    assert png_text(data) == {"plain": "a", "packed": "b" * 1000, "wide": "größe"}
    at = data.index(b"packed\0\0") + 8
    assert "packed" not in png_text(data[:at] + b"\xff" * 4 + data[at + 4 :])
    assert png_text(b"GIF89a") == {}
