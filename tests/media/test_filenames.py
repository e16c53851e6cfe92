"""Names that are made from untrusted text are valid on every system."""

from __future__ import annotations

import ntpath
import tempfile
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import majordomo as md
from majordomo.imaging import Derivative, derive
from majordomo.media.filenames import (
    MAX_STEM_BYTES,
    MAX_STEM_CHARACTERS,
    comparison_key,
    name_problem,
    safe_stem,
)
from majordomo.studio.result import StudioImage, StudioResult
from majordomo.testing import plain_image
from tests.support.windows_names import CONTROL_CHARACTERS, RESERVED_CHARACTERS, RESERVED_NAMES
from tests.support.windows_names import is_valid as is_valid_on_windows

MakeImage = Callable[..., md.ImagePart]
IMAGE = plain_image(4, 4)
# Names that are likely to break a rule: devices, forbidden characters, long scripts, marks.
HOSTILE_NAMES = st.one_of(
    st.text(max_size=300),
    st.text(alphabet=RESERVED_CHARACTERS + CONTROL_CHARACTERS + ". _-aé\u0301\u200d\U0001f98a"),
    st.text(alphabet="𠮷é\u0e40\u0e37界", min_size=60, max_size=300),
    st.builds(
        "{}{}{}{}".format,
        st.sampled_from(["", " ", "../", "C:\\", "._-"]),
        st.sampled_from(RESERVED_NAMES).map(str.lower) | st.sampled_from(RESERVED_NAMES),
        st.sampled_from(["", " ", ".", "_", "-", ".x"]),
        st.sampled_from(["", ".png", ".tar.gz", " .", "x" * 90]),
    ),
)


@given(HOSTILE_NAMES)
@example("com¹")
@example("a" * 79 + ".b")
@example("CON." + "x" * 90)
@example("a\u0301." * 100)
def test_a_safe_name_is_valid_on_every_system_and_stays_as_it_is(name: str) -> None:
    stem = safe_stem(name, ".png")
    assert is_valid_on_windows(stem), stem
    # With a number, the name of a derivative, and a suffix.
    assert is_valid_on_windows(f"{stem}-{'d' * 64}-99999.avif")
    assert len(stem) <= MAX_STEM_CHARACTERS
    assert len(stem.encode()) <= MAX_STEM_BYTES
    assert unicodedata.is_normalized("NFC", stem)
    assert not stem.startswith(".")
    assert safe_stem(stem, ".png") == stem


@pytest.mark.parametrize(
    "name", ["हिन्दी", "เสื้อ", "தமிழ்", "বাংলা", "עִבְרִית", "Übung-3", "日本語", "v1.2_x"]
)
def test_names_in_other_scripts_keep_their_marks(name: str) -> None:
    assert safe_stem(unicodedata.normalize("NFD", name)) == unicodedata.normalize("NFC", name)


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a:b?.png", "a_b"),
        ("nul.txt", "image_nul.txt"),
        ("LPT³", "image_LPT³"),
        ("end. ", "end"),
        ("\u0301accent", "accent"),
        ("❤\ufe0f", "image"),
        ("a\ud800b", "a_b"),
    ],
)
def test_what_a_name_becomes(name: str, stem: str) -> None:
    assert safe_stem(name, ".png") == stem


@given(HOSTILE_NAMES | st.text(min_size=200, max_size=300))
@example("nul .txt")
@example("a/b")
@example("x" * 256)
@example("é" * 128)
def test_a_problem_is_found_in_exactly_the_invalid_names(name: str) -> None:
    assert (name_problem(name) == "") == is_valid_on_windows(name), name_problem(name)
    # Python 3.13 knows the rules too; it has no limit for the length.
    is_reserved = getattr(ntpath, "isreserved", None)
    if is_reserved is not None and 0 < len(name) < 60 and not set(name) & set(RESERVED_CHARACTERS):
        known = is_reserved(name) or name.partition(".")[0].rstrip(" ").upper() in ("COM0", "LPT0")
        assert bool(name_problem(name)) == known


@given(st.characters())
@example("ı")
@example("ſ")
@example("ß")
def test_names_that_a_file_system_does_not_distinguish_have_equal_keys(character: str) -> None:
    name = f"a{character}\u0301"
    for other in (name.upper(), name.lower(), name.casefold(), unicodedata.normalize("NFD", name)):
        # `upper` and `lower` of one character are what Windows compares.
        if len(other) == len(name) or unicodedata.normalize("NFC", other) == name:
            assert comparison_key(other) == comparison_key(name)


def test_different_names_have_different_keys() -> None:
    names = ("fox", "fox2", "Füchse", "fuchse", "狐", "fox-")
    assert len({comparison_key(name) for name in names}) == len(names)


@pytest.mark.parametrize(
    ("first", "second"), [("Fox", "fox"), ("ÜBUNG", "übung"), ("e\u0301tude", "\u00c9TUDE")]
)
def test_save_in_numbers_a_name_that_differs_only_in_case(
    tmp_path: Path, first: str, second: str
) -> None:
    one, two = IMAGE.save_in(tmp_path, first), IMAGE.save_in(tmp_path, second)
    assert two.stem == f"{safe_stem(second)}-2"
    assert comparison_key(one.name) != comparison_key(two.name)


@given(st.lists(HOSTILE_NAMES, min_size=1, max_size=4))
def test_a_folder_of_saved_images_can_be_copied_to_windows(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        written = [IMAGE.save_in(folder, name) for name in names]
        assert {path.parent for path in written} == {Path(folder)}
        assert all(is_valid_on_windows(path.name) for path in written)
        assert len({comparison_key(path.name) for path in written}) == len(names)


@pytest.mark.parametrize("name", ["a:b.png", "NUL.png", "con", "a?.png", "x" * 260, "a.png "])
def test_save_refuses_a_name_that_is_invalid_on_windows(tmp_path: Path, name: str) -> None:
    for overwrite in (False, True):
        with pytest.raises(md.InvalidRequestError, match="valid on every system") as caught:
            IMAGE.save(tmp_path / name, overwrite)
        assert caught.value.field == "path"
    assert list(tmp_path.iterdir()) == []


@given(st.lists(HOSTILE_NAMES, min_size=1, max_size=4))
def test_the_files_of_a_studio_result_are_valid_on_every_system(names: list[str]) -> None:
    derivatives = derive(IMAGE, [Derivative("Thumb", size=2), Derivative("web")], stem=names[0])
    result = StudioResult(
        tuple(StudioImage(name, IMAGE, derivatives=tuple(derivatives)) for name in names)
    )
    files = list(result.files)
    assert all(is_valid_on_windows(name) for name in files)
    assert len({comparison_key(name) for name in files}) == 3 * len(names)


@pytest.mark.parametrize("name", ["CON", "nul", "com1"])
def test_a_derivative_is_not_named_like_a_device(name: str) -> None:
    (file,) = derive(IMAGE, [Derivative(name, size=2)])
    assert file.filename == f"image_{name}.png"
