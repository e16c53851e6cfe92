from __future__ import annotations

import errno
import itertools
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import majordomo as md
from majordomo.imaging import Derivative
from majordomo.studio import Studio, StudioImage, StudioResult
from majordomo.testing import ScriptedImageModel, plain_image

IMAGE = plain_image(16, 16)


def result_with(*names: str) -> StudioResult:
    return StudioResult(tuple(StudioImage(name, IMAGE, finished=True) for name in names))


def test_file_names_are_safe_and_unique() -> None:
    names = ["../../etc/passwd", "a b", "A B", "con", "", "名前", "manifest", "x" * 300]
    files = list(result_with(*names).files)
    assert files == [
        "passwd.png",
        "a_b.png",
        "A_B-2.png",
        "image_con.png",
        "image.png",
        "名前.png",
        "manifest.png",
        "x" * 80 + ".png",
    ]


def test_derivative_with_the_name_of_an_image_gets_a_number() -> None:
    result = Studio(derivatives=[Derivative("2")]).run_sync(
        [StudioImage("main", IMAGE), StudioImage("main-2", IMAGE)]
    )
    assert list(result.files) == ["main.png", "main-2.png", "main-2-2.png", "main-2-2-2.png"]


def test_manifest_describes_each_file_and_has_no_image_bytes() -> None:
    result = Studio(
        ScriptedImageModel([IMAGE]), derivatives=[Derivative("thumb", size=8, format="webp")]
    ).run_sync("a cat", steps=3, seed=7)
    manifest = json.loads(result.to_json())
    [image] = manifest["images"]
    assert {
        name: image[name]
        for name in ("file", "mime", "width", "sha256", "prompt", "seed", "settings")
    } == {
        "file": "main.png",
        "mime": "image/png",
        "width": 16,
        "sha256": IMAGE.sha256,
        "prompt": "A cat.",
        "seed": 7,
        "settings": {"steps": 3},
    }
    assert image["derivatives"][0]["file"] == "main-thumb.webp"
    assert manifest["plan"]["answered_by"] == "rules"
    assert IMAGE.to_base64()[:40] not in result.to_json()


@pytest.mark.parametrize("name", ["b.png", "B.png"])
def test_save_writes_nothing_when_a_file_exists(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match=r"b\.png already exists"):
        result_with("a", "b").save(tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "STORAGE_FULL"),
        (errno.EDQUOT, "STORAGE_FULL"),
        (errno.EROFS, "STORAGE_READ_ONLY"),
    ],
)
def test_save_removes_written_files_when_the_disk_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: str
) -> None:
    written = itertools.count()

    def fsync(_: int) -> None:
        if next(written) == 2:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(md.errors.StorageError) as caught:
        result_with("a", "b", "c").save(tmp_path)
    assert caught.value.code == code
    assert caught.value.details.keys() >= {"stage", "input", "help"}
    assert list(tmp_path.iterdir()) == []


def test_save_works_on_a_file_system_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", link)
    assert {path.name for path in result_with("a").save(tmp_path)} == {"a.png", "manifest.json"}
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "manifest.json"}


def test_save_to_a_path_that_is_a_file_raises_storage_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises((md.errors.StorageError, FileExistsError)):
        result_with("a").save(tmp_path / "out")


@pytest.mark.parametrize(
    "change",
    [
        {"file": "../a.png"},
        {"file": "con"},
        {"file": ""},
        {"sha256": "0" * 64},
        {"name": None},
        {"derivatives": 7},
    ],
    ids=repr,
)
def test_load_refuses_a_manifest_that_was_changed(tmp_path: Path, change: dict[str, Any]) -> None:
    result_with("a").save(tmp_path / "out")
    if "file" in change:
        # A file of this name is not read, even if it is the right one.
        with suppress(OSError):
            (tmp_path / "out" / change["file"]).write_bytes(IMAGE.data)
    path = tmp_path / "out" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["images"][0] |= change
    path.write_text(json.dumps(manifest))
    with pytest.raises(md.InvalidRequestError):
        StudioResult.load(tmp_path / "out")
    path.write_text("{")
    with pytest.raises(md.InvalidRequestError):
        StudioResult.load(tmp_path / "out")
