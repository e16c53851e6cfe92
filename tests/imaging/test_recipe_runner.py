"""What holds for every recipe: bad input, limits, threads, memory."""

from __future__ import annotations

import os
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
from tests.support.hypothesis_effort import tries
from tests.support.sample_images import gradient, noisy, part, pixels, png_chunk, telling

SMALL = Recipe(Resize(8), Convert("jpeg"))


def failing(given: object, recipe: object = SMALL, **limits: int) -> tuple[str | None, str]:
    with pytest.raises(md.InvalidRequestError) as caught:
        apply(given, recipe, limits=md.Limits(**limits))  # type: ignore[arg-type]
    return caught.value.field, caught.value.code


def test_nothing_to_do_is_the_same_image() -> None:
    given = part(gradient(), "JPEG")
    assert apply(given, Recipe()) is given
    assert apply_with_notes(given, Recipe()) == Applied(given)


def test_a_single_step_is_a_recipe() -> None:
    given = part(gradient())
    assert apply(given, Resize(8)) == apply(given, Recipe(Resize(8)))


def test_only_images_and_recipes_are_taken() -> None:
    assert failing(b"bytes")[0] == "image"
    assert failing(part(gradient()), "resize=8")[0] == "recipe"
    assert failing(part(gradient()), None)[0] == "recipe"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "AVIF"])
def test_a_truncated_file_is_a_bad_image(kind: str) -> None:
    data = part(noisy(90, 90), kind).data
    given = md.ImagePart(data[: len(data) // 2])
    assert failing(given) == ("image", "BAD_IMAGE")


@given(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "AVIF"]), st.data())
@settings(max_examples=tries(80), deadline=None)
def test_broken_bytes_are_an_image_or_a_typed_error(kind: str, data: st.DataObject) -> None:
    whole = bytearray(WHOLE[kind])
    for _ in range(data.draw(st.integers(1, 5))):
        whole[data.draw(st.integers(4, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        made = apply(
            md.ImagePart(bytes(whole)),
            Recipe(Resize(8, 8, "exact", enlarge=True), Convert("png")),
            limits=md.Limits(max_image_pixels=10_000),
        )
    except md.InvalidRequestError as error:
        assert error.code in ("BAD_IMAGE", "NOT_AN_IMAGE", "IMAGE_TOO_LARGE")
    else:
        assert (made.width, made.height) == (8, 8)


WHOLE = {kind: part(noisy(24, 18), kind).data for kind in ("PNG", "JPEG", "WEBP", "GIF", "AVIF")}


def bomb(width: int, height: int) -> md.ImagePart:
    """A PNG of a few kilobytes that wants gigabytes."""
    packed = zlib.compress(bytes(1 << 20), 9)
    head = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return md.ImagePart(
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", head)
        + png_chunk(b"IDAT", packed)
        + png_chunk(b"IEND", b"")
    )


def test_a_bomb_is_refused_by_its_header() -> None:
    for step in (SMALL, Sanitize(), Recipe()):
        assert failing(bomb(16_000, 16_000), step) == ("image", "IMAGE_TOO_LARGE")
    assert failing(bomb(16_385, 1)) == ("image", "IMAGE_TOO_LARGE")


def test_limits_are_the_callers() -> None:
    given = part(noisy(100, 50))
    assert failing(given, max_image_pixels=4999) == ("image", "IMAGE_TOO_LARGE")
    assert failing(given, max_image_side=99) == ("image", "IMAGE_TOO_LARGE")
    assert failing(given, max_image_bytes=len(given.data) - 1) == ("image", "IMAGE_TOO_LARGE")
    assert (
        apply(
            given,
            SMALL,
            limits=md.Limits(
                max_image_pixels=5000, max_image_side=100, max_image_bytes=len(given.data)
            ),
        ).width
        == 8
    )


def test_a_text_bomb_in_an_image_is_a_typed_error_or_nothing() -> None:
    data = part(gradient()).data
    bombed = (
        data[:33]
        + png_chunk(b"zTXt", b"parameters\0\0" + zlib.compress(bytes(80 << 20), 9))
        + data[33:]
    )
    given = md.ImagePart(bombed)
    assert len(apply(given, Sanitize()).data) < 20_000
    assert failing(given) == ("image", "BAD_IMAGE")  # Pillow's own guard
    assert apply(given, Recipe(Sanitize())).parameters == {}


def test_a_pixel_goes_through_every_step() -> None:
    given = part(Image.new("RGBA", (1, 1), (9, 8, 7, 6)))
    made = apply(
        given,
        Recipe.parse(
            "strip,orient,resize=5,crop=1:1:smart,flatten,watermark=a,optimize,convert=webp,fit=9000"
        ),
    )
    assert (made.width, made.height, made.mime) == (1, 1, "image/webp")


def test_bytes_behind_the_end_do_not_come_along() -> None:
    for kind in ("PNG", "JPEG", "WEBP", "GIF"):
        data = part(gradient(), kind).data
        polyglot = md.ImagePart(data + b"PK\3\4<?php evil")
        assert apply(polyglot, Sanitize()).data == apply(md.ImagePart(data), Sanitize()).data
        assert b"php" not in apply(polyglot, Resize(8)).data


def test_the_step_that_failed_is_named() -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        apply(part(gradient()), Recipe(Sanitize(), imaging.Crop(box=(0, 0, 900, 1))))
    assert caught.value.to_dict()["details"] == {"field": "box", "step": "steps[1].crop"}


def test_one_given_image_serves_many_threads() -> None:
    given, recipe = (
        telling(gradient(200, 150), "JPEG", 6),
        Recipe.parse("resize=50,text=hello,convert=webp"),
    )
    expected = apply(given, recipe)
    made: list[md.ImagePart] = []
    running = [threading.Thread(target=lambda: made.append(apply(given, recipe))) for _ in range(4)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert made == [expected] * 4


async def test_the_async_form_does_the_same_in_another_thread() -> None:
    given = part(gradient())
    assert await apply_async(given, SMALL) == apply(given, SMALL)
    assert await apply_async_with_notes(given, Resize(900)) == apply_with_notes(given, Resize(900))
    assert await in_thread(threading.get_ident) != threading.get_ident()
    assert await in_thread(imaging.contact_sheet, [given], columns=1) == imaging.contact_sheet(
        [given], columns=1
    )


async def test_an_error_comes_out_of_the_thread() -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        await apply_async(part(gradient()), imaging.Crop(box=(0, 0, 900, 1)))
    assert caught.value.field == "box"


async def test_no_more_threads_work_than_there_are_processors() -> None:
    lock, now, most = threading.Lock(), 0, 0
    gate = threading.Event()

    def work() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
            if now == threads.MAX_WORKERS:
                gate.set()
        gate.wait(10)
        with lock:
            now -= 1

    async with anyio.create_task_group() as group:
        for _ in range(threads.MAX_WORKERS * 5):
            group.start_soon(in_thread, work)
    assert most == threads.MAX_WORKERS


async def test_a_cancellation_waits_for_nothing_and_what_has_not_begun_is_never_done() -> None:
    go, began, done = threading.Event(), [], []

    def block() -> None:
        began.append(1)
        go.wait(10)

    try:
        async with anyio.create_task_group() as group:
            for _ in range(threads.MAX_WORKERS):
                group.start_soon(in_thread, block)
            while len(began) < threads.MAX_WORKERS:
                await anyio.sleep(0.001)
            async with anyio.create_task_group() as inner:
                inner.start_soon(in_thread, done.append, 1)
                await anyio.wait_all_tasks_blocked()
                inner.cancel_scope.cancel()
            group.cancel_scope.cancel()  # comes here while every thread is still blocked
        assert not go.is_set()
    finally:
        go.set()
    assert await in_thread(lambda: 7) == 7
    assert done == []


async def test_work_that_nobody_waits_for_stops_at_the_next_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from majordomo.imaging import recipe_runner

    began, go, ended, later = threading.Event(), threading.Event(), threading.Event(), []

    def slow(work: object, step: object) -> None:
        began.set()
        go.wait(10)

    real = recipe_runner.run

    def run(*given: object) -> object:
        try:
            return real(*given)  # type: ignore[arg-type]
        finally:
            ended.set()

    monkeypatch.setattr(recipe_runner, "run", run)
    monkeypatch.setitem(recipe_runner._STEP_FUNCTIONS, "orient", slow)
    monkeypatch.setitem(
        recipe_runner._STEP_FUNCTIONS, "flatten", lambda work, step: later.append(step)
    )
    async with anyio.create_task_group() as group:
        group.start_soon(apply_async, part(gradient()), Recipe(imaging.Orient(), imaging.Flatten()))
        while not began.is_set():
            await anyio.sleep(0.001)
        group.cancel_scope.cancel()
    go.set()
    assert await anyio.to_thread.run_sync(ended.wait, 10)
    assert later == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_threads_of_its_own() -> None:
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
def test_memory_does_not_grow_with_the_number_of_images() -> None:
    code = """
import resource, sys
from PIL import Image
import io
from majordomo import ImagePart
from majordomo.imaging import Recipe, apply, derive, STANDARD_SET
held = io.BytesIO()
Image.effect_noise((2400, 1600), 40).convert("RGB").save(held, "JPEG")
given, recipe = ImagePart(held.getvalue()), Recipe.parse("strip,resize=1200,text=hello,convert=webp")
peaks = []
for _ in range(9):
    apply(given, recipe), derive(given, STANDARD_SET)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(peaks[-1] - peaks[2])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    grown = int(done.stdout) * (1 if sys.platform == "darwin" else 1024)
    assert grown < 2400 * 1600 * 3  # not even by one image


def test_metadata_goes_without_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [telling(gradient(), kind) for kind in ("PNG", "JPEG", "WEBP")]

    def refuse(*args: object, **rest: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(Image, "open", refuse)
    made = [apply(image, Sanitize(parameters=True)) for image in given]
    monkeypatch.undo()
    assert [pixels(picture) for picture in made] == [pixels(picture) for picture in given]
