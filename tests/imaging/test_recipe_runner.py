"""Properties of every recipe: invalid input, limits, threads, memory."""

from __future__ import annotations

import importlib.util
import struct
import subprocess
import sys
import threading
import zlib

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import majordomo as md
from majordomo import imaging
from majordomo.concurrency import worker_threads as threads
from majordomo.imaging import (
    Applied,
    Convert,
    Recipe,
    Resize,
    Sanitize,
    apply,
    apply_async,
    apply_async_with_notes,
    apply_with_notes,
    in_thread,
)
from tests.support import system
from tests.support.hypothesis_effort import max_examples
from tests.support.sample_images import (
    gradient,
    image_with_metadata,
    noise,
    part,
    png_chunk,
    rgba_bytes,
)
from tests.support.wait_until import wait_until

SMALL = Recipe(Resize(8), Convert("jpeg"))


def failing(original: object, recipe: object = SMALL, **limits: int) -> tuple[str | None, str]:
    with pytest.raises(md.InvalidRequestError) as caught:
        apply(original, recipe, limits=md.Limits(**limits))  # type: ignore[arg-type]
    return caught.value.field, caught.value.code


def test_an_empty_recipe_returns_the_same_image() -> None:
    original = part(gradient(), "JPEG")
    assert apply(original, Recipe()) is original
    assert apply_with_notes(original, Recipe()) == Applied(original)


def test_a_single_step_is_a_recipe() -> None:
    original = part(gradient())
    assert apply(original, Resize(8)) == apply(original, Recipe(Resize(8)))


def test_only_images_and_recipes_are_accepted() -> None:
    assert failing(b"bytes")[0] == "image"
    assert failing(part(gradient()), "resize=8")[0] == "recipe"
    assert failing(part(gradient()), None)[0] == "recipe"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "AVIF"])
def test_a_truncated_file_is_a_bad_image(kind: str) -> None:
    data = part(noise(90, 90), kind).data
    original = md.ImagePart(data[: len(data) // 2])
    assert failing(original) == ("image", "BAD_IMAGE")


@given(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "AVIF"]), st.data())
@settings(max_examples=max_examples(80), deadline=None)
def test_broken_bytes_are_an_image_or_a_typed_error(kind: str, data: st.DataObject) -> None:
    mutated = bytearray(SAMPLES[kind])
    for _ in range(data.draw(st.integers(1, 5))):
        mutated[data.draw(st.integers(4, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    try:
        result = apply(
            md.ImagePart(bytes(mutated)),
            Recipe(Resize(8, 8, "exact", enlarge=True), Convert("png")),
            limits=md.Limits(max_image_pixels=10_000),
        )
    except md.InvalidRequestError as error:
        assert error.code in ("BAD_IMAGE", "NOT_AN_IMAGE", "IMAGE_TOO_LARGE")
    else:
        assert (result.width, result.height) == (8, 8)


SAMPLES = {kind: part(noise(24, 18), kind).data for kind in ("PNG", "JPEG", "WEBP", "GIF", "AVIF")}


def bomb(width: int, height: int) -> md.ImagePart:
    """Return a PNG of a few kilobytes that decodes to gigabytes."""
    packed = zlib.compress(bytes(1 << 20), 9)
    head = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return md.ImagePart(
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", head)
        + png_chunk(b"IDAT", packed)
        + png_chunk(b"IEND", b"")
    )


def test_a_decompression_bomb_is_rejected_by_its_header() -> None:
    for step in (SMALL, Sanitize(), Recipe()):
        assert failing(bomb(16_000, 16_000), step) == ("image", "IMAGE_TOO_LARGE")
    assert failing(bomb(16_385, 1)) == ("image", "IMAGE_TOO_LARGE")


def test_the_limits_of_the_call_apply() -> None:
    original = part(noise(100, 50))
    assert failing(original, max_image_pixels=4999) == ("image", "IMAGE_TOO_LARGE")
    assert failing(original, max_image_side=99) == ("image", "IMAGE_TOO_LARGE")
    assert failing(original, max_image_bytes=len(original.data) - 1) == ("image", "IMAGE_TOO_LARGE")
    assert (
        apply(
            original,
            SMALL,
            limits=md.Limits(
                max_image_pixels=5000, max_image_side=100, max_image_bytes=len(original.data)
            ),
        ).width
        == 8
    )


def test_a_text_bomb_in_an_image_is_a_typed_error_or_removed() -> None:
    data = part(gradient()).data
    bombed = (
        data[:33]
        + png_chunk(b"zTXt", b"parameters\0\0" + zlib.compress(bytes(80 << 20), 9))
        + data[33:]
    )
    original = md.ImagePart(bombed)
    assert len(apply(original, Sanitize()).data) < 20_000
    assert failing(original) == ("image", "BAD_IMAGE")  # Pillow's own guard
    assert apply(original, Recipe(Sanitize())).parameters == {}


def test_every_step_accepts_an_image_of_one_pixel() -> None:
    original = part(Image.new("RGBA", (1, 1), (9, 8, 7, 6)))
    result = apply(
        original,
        Recipe.parse(
            "strip,orient,resize=5,crop=1:1:smart,flatten,watermark=a,optimize,convert=webp,fit=9000"
        ),
    )
    assert (result.width, result.height, result.mime) == (1, 1, "image/webp")


def test_bytes_after_the_end_are_removed() -> None:
    for kind in ("PNG", "JPEG", "WEBP", "GIF"):
        data = part(gradient(), kind).data
        polyglot = md.ImagePart(data + b"PK\3\4<?php evil")
        assert apply(polyglot, Sanitize()).data == apply(md.ImagePart(data), Sanitize()).data
        assert b"php" not in apply(polyglot, Resize(8)).data


def test_an_error_names_the_failed_step() -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        apply(part(gradient()), Recipe(Sanitize(), imaging.Crop(box=(0, 0, 900, 1))))
    assert caught.value.to_dict()["details"] == {"field": "box", "step": "steps[1].crop"}


def test_an_image_can_be_used_by_several_threads() -> None:
    original, recipe = (
        image_with_metadata(gradient(200, 150), "JPEG", 6),
        Recipe.parse("resize=50,text=hello,convert=webp"),
    )
    expected = apply(original, recipe)
    results: list[md.ImagePart] = []
    running = [
        threading.Thread(target=lambda: results.append(apply(original, recipe))) for _ in range(4)
    ]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert results == [expected] * 4


async def test_the_async_functions_run_in_another_thread() -> None:
    original = part(gradient())
    assert await apply_async(original, SMALL) == apply(original, SMALL)
    assert await apply_async_with_notes(original, Resize(900)) == apply_with_notes(
        original, Resize(900)
    )
    assert await in_thread(threading.get_ident) != threading.get_ident()
    assert await in_thread(imaging.contact_sheet, [original], columns=1) == imaging.contact_sheet(
        [original], columns=1
    )


async def test_an_error_in_the_thread_is_raised_in_the_task() -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        await apply_async(part(gradient()), imaging.Crop(box=(0, 0, 900, 1)))
    assert caught.value.field == "box"


async def test_the_number_of_worker_threads_is_bounded() -> None:
    lock, running_now, peak = threading.Lock(), 0, 0
    gate = threading.Event()

    def work() -> None:
        nonlocal running_now, peak
        with lock:
            running_now += 1
            peak = max(peak, running_now)
            if running_now == threads.MAX_WORKERS:
                gate.set()
        gate.wait(10)
        with lock:
            running_now -= 1

    async with anyio.create_task_group() as group:
        for _ in range(threads.MAX_WORKERS * 5):
            group.start_soon(in_thread, work)
    assert peak == threads.MAX_WORKERS


async def test_cancellation_does_not_wait_and_queued_work_is_not_run() -> None:
    go, started, done = threading.Event(), [], []

    def block() -> None:
        started.append(1)
        go.wait(10)

    try:
        async with anyio.create_task_group() as group:
            for _ in range(threads.MAX_WORKERS):
                group.start_soon(in_thread, block)
            await wait_until(lambda: len(started) >= threads.MAX_WORKERS)
            async with anyio.create_task_group() as inner:
                inner.start_soon(in_thread, done.append, 1)
                await anyio.wait_all_tasks_blocked()
                inner.cancel_scope.cancel()
            group.cancel_scope.cancel()  # every thread is still blocked here
        assert not go.is_set()
    finally:
        go.set()
    assert await in_thread(lambda: 7) == 7
    assert done == []


async def test_a_cancelled_recipe_stops_before_the_next_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from majordomo.imaging import recipe_runner

    started, go, ended, later = threading.Event(), threading.Event(), threading.Event(), []

    def slow(pipeline: object, step: object) -> None:
        started.set()
        go.wait(10)

    real = recipe_runner.run

    def run(*args: object) -> object:
        try:
            return real(*args)  # type: ignore[arg-type]
        finally:
            ended.set()

    monkeypatch.setattr(recipe_runner, "run", run)
    monkeypatch.setitem(recipe_runner._STEP_FUNCTIONS, "orient", slow)
    monkeypatch.setitem(
        recipe_runner._STEP_FUNCTIONS, "flatten", lambda pipeline, step: later.append(step)
    )
    async with anyio.create_task_group() as group:
        group.start_soon(apply_async, part(gradient()), Recipe(imaging.Orient(), imaging.Flatten()))
        await wait_until(started.is_set)
        group.cancel_scope.cancel()
    go.set()
    assert await anyio.to_thread.run_sync(ended.wait, 10)
    assert later == []


@system.needs_fork
def test_a_forked_child_has_its_own_threads() -> None:
    code = (
        "import anyio, os, majordomo.imaging as im\n"
        "assert anyio.run(im.in_thread, int) == 0\n"
        "child = os.fork()\n"
        "if child == 0: os._exit(5 if anyio.run(im.in_thread, int) == 0 else 6)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5\n"
    )
    subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code], check=True, timeout=60
    )


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("resource") is None, reason="the peak of memory cannot be read"
)
def test_memory_does_not_grow_with_the_number_of_images() -> None:
    code = """
import resource, sys
from PIL import Image
import io
from majordomo import ImagePart
from majordomo.imaging import Recipe, apply, derive, STANDARD_SET
buffer = io.BytesIO()
Image.effect_noise((2400, 1600), 40).convert("RGB").save(buffer, "JPEG")
image = ImagePart(buffer.getvalue())
recipe = Recipe.parse("strip,resize=1200,text=hello,convert=webp")
peaks = []
for _ in range(9):
    apply(image, recipe), derive(image, STANDARD_SET)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(peaks[-1] - peaks[2])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    grown = int(done.stdout) * (1 if sys.platform == "darwin" else 1024)
    assert grown < 2400 * 1600 * 3  # less than one image


def test_metadata_is_removed_without_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    originals = [image_with_metadata(gradient(), kind) for kind in ("PNG", "JPEG", "WEBP")]

    def refuse(*args: object, **rest: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(Image, "open", refuse)
    results = [apply(image, Sanitize(parameters=True)) for image in originals]
    monkeypatch.undo()
    assert [rgba_bytes(image) for image in results] == [rgba_bytes(image) for image in originals]
