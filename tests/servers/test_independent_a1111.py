"""The AUTOMATIC1111 test server, tested with webuiapi.

webuiapi is an independent client for the real web UI and is used unchanged.
"""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from PIL import Image

from tests.servers.automatic1111 import LORAS, Automatic1111
from tests.servers.vendor_sdks import require
from tests.support.loopback import Loopback

webuiapi: Any = require("webuiapi")

Serve = Callable[[Any], Loopback]
Connect = Callable[..., Any]
SMALL = {"prompt": "a red fox", "seed": 7, "steps": 4, "width": 64, "height": 48}


@pytest.fixture
def engine() -> Automatic1111:
    return Automatic1111()


@pytest.fixture
def connect(serve: Serve) -> Iterator[Connect]:
    """Return a function that connects webuiapi to an engine."""
    clients: list[Any] = []

    def start(engine: Automatic1111, **options: Any) -> Any:
        clients.append(webuiapi.WebUIApi(port=serve(engine).port, **options))
        return clients[-1]

    yield start
    for client in clients:
        client.session.close()


@pytest.fixture
def api(connect: Connect, engine: Automatic1111) -> Any:
    return connect(engine)


def start_call(call: Callable[[], Any]) -> Callable[[], Any]:
    """Starts the call; the result is the function that waits for its wait_for_result."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call()), daemon=True)
    thread.start()

    def wait_for_result() -> Any:
        thread.join(5)
        assert results, "no result in time"
        return results[0]

    return wait_for_result


def raw(api: Any, method: str, path: str, **options: Any) -> Any:
    """Send a request that webuiapi itself would never send."""
    return api.session.request(method, f"{api.baseurl}/{path}", timeout=5, **options)


def as_base64(image: Image.Image) -> str:
    """Return a PNG of the image in base64."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def half_mask() -> Image.Image:
    """Return a mask that is black on the left and white on the right."""
    mask = Image.new("L", (64, 48), 0)
    mask.paste(255, (32, 0, 64, 48))
    return mask


# --- images ---


def test_text_to_image(api: Any, engine: Automatic1111) -> None:
    result = api.txt2img(
        **SMALL,
        negative_prompt="blurry",
        sampler_name="Heun",
        scheduler="Karras",
        cfg_scale=5.5,
        batch_size=2,
        n_iter=2,
    )
    job = engine.jobs[0]
    assert [image.size for image in result.images] == [(64, 48)] * 4
    assert [image.getpixel((0, 0)) for image in result.images] == [
        engine.color(job, index) for index in range(4)
    ]
    assert len({image.getpixel((0, 0)) for image in result.images}) == 4
    assert result.info["all_seeds"] == [7, 8, 9, 10]
    assert result.info["sampler_name"] == "Heun"
    assert result.parameters["cfg_scale"] == 5.5
    assert (job["negative_prompt"], job["scheduler"], job["cfg_scale"]) == ("blurry", "Karras", 5.5)
    text = result.images[1].info["parameters"]
    assert text == result.info["infotexts"][1]
    assert text.startswith(
        "a red fox\nNegative prompt: blurry\nSteps: 4, Sampler: Heun, Schedule type: Karras, "
        "CFG scale: 5.5, Seed: 8, Size: 64x48"
    )
    assert api.png_info(result.images[1]).info == text


def test_every_setting_changes_the_image_and_repeating_it_does_not(api: Any) -> None:
    def color(**extra: Any) -> Any:
        return api.txt2img(**SMALL | extra).image.getpixel((0, 0))

    changed = [
        {"prompt": "a blue fox"},
        {"negative_prompt": "blurry"},
        {"seed": 8},
        {"steps": 5},
        {"cfg_scale": 3},
        {"sampler_name": "Heun"},
        {"scheduler": "Karras"},
        {"width": 72},
        {"height": 56},
        {"override_settings": {"sd_model_checkpoint": "sd_xl_base_1.0"}},
        {"override_settings": {"CLIP_stop_at_last_layers": 2}},
        {"tiling": True},
    ]
    assert len({color(), *(color(**extra) for extra in changed)}) == len(changed) + 1
    assert color() == color()
    # A later image of a batch equals the first image of the next seed.
    assert api.txt2img(**SMALL, batch_size=2).images[1].getpixel((0, 0)) == color(seed=8)


def test_a_random_seed_is_reported(api: Any) -> None:
    first = api.txt2img(**SMALL | {"seed": -1})
    again = api.txt2img(**SMALL | {"seed": first.info["seed"]})
    assert first.image.getpixel((0, 0)) == again.image.getpixel((0, 0))
    assert 0 <= first.info["seed"] < 1 << 32


def test_image_to_image_depends_on_image_and_strength(api: Any, engine: Automatic1111) -> None:
    red, blue = Image.new("RGB", (64, 48), "red"), Image.new("RGB", (64, 48), "blue")
    results = [
        api.img2img(images=[image], **SMALL, denoising_strength=strength).image.getpixel((0, 0))
        for image, strength in ((red, 0.5), (blue, 0.5), (red, 0.9))
    ]
    assert len(set(results)) == 3
    assert engine.jobs[0]["denoising_strength"] == 0.5
    # Half of four steps, plus one.
    assert engine.jobs[0]["sampling_steps"] == 3
    assert api.img2img(images=[red], **SMALL | {"width": 128}).image.size == (128, 48)
    echoed = api.img2img(images=[red], **SMALL, include_init_images=True).parameters
    assert echoed["init_images"]
    assert api.img2img(images=[red], **SMALL).parameters["init_images"] is None


def test_inpainting_repaints_where_the_mask_is_white(api: Any, engine: Automatic1111) -> None:
    source = Image.new("RGB", (64, 48), "red")
    image = api.img2img(
        images=[source], mask_image=half_mask(), mask_blur=0, inpainting_fill=1, **SMALL
    ).image
    assert (image.getpixel((0, 0)), image.getpixel((31, 47))) == ((255, 0, 0),) * 2
    assert (image.getpixel((32, 0)), image.getpixel((63, 47))) == (
        engine.color(engine.jobs[0]),
    ) * 2
    assert engine.jobs[0]["inpainting_fill"] == 1

    inverted = api.img2img(
        images=[source], mask_image=half_mask(), mask_blur=0, inpainting_mask_invert=1, **SMALL
    ).image
    assert inverted.getpixel((63, 0)) == (255, 0, 0)
    assert inverted.getpixel((0, 0)) != (255, 0, 0)

    blurred = api.img2img(images=[source], mask_image=half_mask(), mask_blur=8, **SMALL).image
    assert blurred.getpixel((28, 20)) not in ((255, 0, 0), engine.color(engine.jobs[-1]))


def test_only_the_whole_image_mode_of_inpainting_changes_the_size(api: Any) -> None:
    source = Image.new("RGB", (64, 48), "red")
    wide = SMALL | {"width": 128, "height": 96}
    assert api.img2img(images=[source], mask_image=half_mask(), **wide).image.size == (64, 48)
    assert api.img2img(
        images=[source], mask_image=half_mask(), inpaint_full_res=False, **wide
    ).image.size == (128, 96)


def test_a_mask_with_a_hole_is_read_by_its_alpha(api: Any) -> None:
    mask = Image.new("RGBA", (64, 48), (255, 255, 255, 0))
    mask.paste((0, 0, 0, 255), (32, 0, 64, 48))
    image = api.img2img(
        images=[Image.new("RGB", (64, 48), "red")], mask_image=mask, mask_blur=0, **SMALL
    ).image
    assert image.getpixel((0, 0)) == (255, 0, 0)
    assert image.getpixel((63, 0)) != (255, 0, 0)


@pytest.mark.parametrize(("mode", "edge"), [(0, (255, 0, 0)), (1, (255, 0, 0)), (2, (255, 0, 0))])
def test_resize_modes_give_the_requested_size(
    api: Any, mode: int, edge: tuple[int, int, int]
) -> None:
    image = api.img2img(
        images=[Image.new("RGB", (32, 48), "red")],
        mask_image=half_mask(),
        mask_blur=0,
        inpaint_full_res=False,
        resize_mode=mode,
        **SMALL,
    ).image
    assert image.size == (64, 48)
    assert image.getpixel((0, 0)) == edge


def test_upscaling_one_image(api: Any) -> None:
    source = Image.new("RGB", (32, 24), "green")
    doubled = api.extra_single_image(
        source, upscaler_1=webuiapi.Upscaler.Lanczos, upscaling_resize=2
    ).image
    assert (doubled.size, doubled.getpixel((0, 0))) == ((64, 48), (0, 128, 0))
    assert api.extra_single_image(
        source,
        upscaler_1="R-ESRGAN 4x+",
        resize_mode=1,
        upscaling_resize_w=40,
        upscaling_resize_h=40,
    ).image.size == (40, 40)
    # The default upscaler is "None".
    assert api.extra_single_image(source).image.size == (32, 24)
    with pytest.raises(RuntimeError, match="could not find upscaler named nothing"):
        api.extra_single_image(source, upscaler_1="nothing")


@pytest.mark.parametrize(
    ("samples_format", "kind"), [("png", "PNG"), ("jpg", "JPEG"), ("webp", "WEBP")]
)
def test_the_server_chooses_the_format(connect: Connect, samples_format: str, kind: str) -> None:
    api = connect(Automatic1111(samples_format=samples_format))
    result = api.txt2img(**SMALL)
    assert result.image.format == kind
    sent = raw(api, "POST", "png-info", json={"image": result.json["images"][0]})
    assert sent.json()["info"] == result.info["infotexts"][0]
    assert sent.json()["parameters"]["Seed"] == "7"


def test_a_grid_precedes_several_images(connect: Connect) -> None:
    api = connect(Automatic1111(return_grid=True))
    result = api.txt2img(**SMALL, batch_size=3)
    assert [image.size for image in result.images] == [(128, 96)] + [(64, 48)] * 3
    assert result.info["index_of_first_image"] == 1
    assert len(result.info["infotexts"]) == 4
    assert api.txt2img(**SMALL).info["index_of_first_image"] == 0


def test_images_can_be_omitted(api: Any) -> None:
    assert api.txt2img(**SMALL, send_images=False).images == []


# --- the one engine ---


def test_progress_reports_the_step_and_a_preview(api: Any, engine: Automatic1111) -> None:
    idle = api.get_progress()
    assert (
        idle["progress"],
        idle["state"]["job_count"],
        idle["current_image"],
        idle["current_task"],
    ) == (0, 0, None, None)
    engine.hold_at = 2
    wait_for_result = start_call(
        lambda: raw(api, "POST", "txt2img", json=SMALL | {"force_task_id": "mine"})
    )
    assert engine.reached.wait(5)
    progress = api.get_progress()
    assert progress["progress"] == pytest.approx(0.51)
    assert progress["state"] | {"job_timestamp": ""} == {
        "skipped": False,
        "interrupted": False,
        "stopping_generation": False,
        "job": "scripts_txt2img",
        "job_count": 1,
        "job_timestamp": "",
        "job_no": 0,
        "sampling_step": 2,
        "sampling_steps": 4,
    }
    assert progress["current_task"] == "mine"
    assert Image.open(io.BytesIO(base64.b64decode(progress["current_image"]))).size == (8, 6)
    assert raw(api, "GET", "progress?skip_current_image=true").json()["current_image"] is None
    engine.release()
    assert wait_for_result().status_code == 200
    assert api.get_progress()["progress"] == 0


def test_previews_follow_the_interval(connect: Connect) -> None:
    engine = Automatic1111(preview_interval=3)
    api = connect(engine)
    for step, previewed in ((2, False), (3, True)):
        engine.hold_at = step
        wait_for_result = start_call(lambda: api.txt2img(**SMALL))
        assert engine.reached.wait(5)
        assert (api.get_progress()["current_image"] is not None) is previewed
        engine.release()
        wait_for_result()


def test_interrupt_ends_the_job_with_partial_images(api: Any, engine: Automatic1111) -> None:
    engine.hold_at = 1
    wait_for_result = start_call(lambda: api.txt2img(**SMALL, n_iter=3))
    assert engine.reached.wait(5)
    assert api.get_progress()["state"]["job"] == "Batch 1 out of 3"
    assert api.interrupt() == {}
    result = wait_for_result()
    assert len(result.images) == 1
    # The seeds of all requested images, including those that were not generated.
    assert result.info["all_seeds"] == [7, 8, 9]
    assert result.image.getpixel((0, 0)) != engine.color(engine.jobs[0])
    assert engine.interrupts == 1
    assert api.get_progress()["state"]["interrupted"] is True
    # The interrupt does not affect the next job.
    assert api.txt2img(**SMALL).image.getpixel((0, 0)) == engine.color(engine.jobs[-1])


def test_an_interrupt_of_an_idle_engine_has_no_effect(api: Any, engine: Automatic1111) -> None:
    api.interrupt()
    assert api.txt2img(**SMALL).image.getpixel((0, 0)) == engine.color(engine.jobs[0])


def test_skip_ends_one_batch_only(api: Any, engine: Automatic1111) -> None:
    engine.hold_at = 1
    wait_for_result = start_call(lambda: api.txt2img(**SMALL, n_iter=2))
    assert engine.reached.wait(5)
    assert api.skip() is None
    first, second = wait_for_result().images
    assert first.getpixel((0, 0)) != engine.color(engine.jobs[0], 0)
    assert second.getpixel((0, 0)) == engine.color(engine.jobs[0], 1)


def test_jobs_run_one_by_one_and_progress_is_that_of_the_running_job(
    api: Any, connect: Connect, engine: Automatic1111
) -> None:
    engine.hold_at = 0
    first = start_call(lambda: raw(api, "POST", "txt2img", json=SMALL | {"force_task_id": "first"}))
    assert engine.reached.wait(5)
    other = connect(engine)
    second = start_call(
        lambda: raw(
            other, "POST", "txt2img", json=SMALL | {"prompt": "two", "force_task_id": "second"}
        )
    )
    assert engine.wait_for(lambda: engine.waiting == 1)
    assert len(engine.jobs) == 1
    assert api.get_progress()["current_task"] == "first"
    engine.release()
    assert first().status_code == 200
    assert second().status_code == 200
    assert [job["prompt"] for job in engine.jobs] == ["a red fox", "two"]


# --- lists and settings ---


def test_samplers_and_schedulers_are_resolved(api: Any, engine: Automatic1111) -> None:
    assert {"Euler", "Euler a", "DPM++ 2M", "DDIM", "UniPC"} <= set(api.util_get_sampler_names())
    assert next(one for one in api.get_samplers() if one["name"] == "Euler a")["aliases"] == [
        "k_euler_a",
        "k_euler_ancestral",
    ]
    assert {"automatic", "karras", "sgm_uniform", "ddim"} <= set(api.util_get_scheduler_names())
    requested = [
        ("Euler", "karras"),
        ("Heun", "SGM Uniform"),
        ("euler a", "nonsense"),
        ("Euler Karras", None),
        ("Euler Karras", "automatic"),
    ]
    for sampler, scheduler in [*requested, ("DPM++ 2M Karras", None)]:
        assert (
            raw(
                api,
                "POST",
                "txt2img",
                json=SMALL | {"sampler_name": sampler, "scheduler": scheduler},
            ).status_code
            == 200
        )
    assert [(job["sampler"], job["scheduler"], job["schedule"]) for job in engine.jobs] == [
        ("Euler", "Karras", "Karras"),
        ("Heun", "SGM Uniform", "SGM Uniform"),
        # The first entry of each list.
        ("DPM++ 2M", "Automatic", "Karras"),
        ("Euler", "Karras", "Karras"),
        ("Euler", "Automatic", "Automatic"),
        ("DPM++ 2M", "Automatic", "Karras"),
    ]


def test_options_models_and_other_lists(api: Any, engine: Automatic1111) -> None:
    assert api.util_get_current_model() == "v1-5-pruned-emaonly.safetensors [6ce0161689]"
    assert api.util_get_model_names() == [
        "sd_xl_base_1.0.safetensors [31e35c80fc]",
        "v1-5-pruned-emaonly.safetensors [6ce0161689]",
    ]
    api.util_set_model("sd_xl_base")
    assert api.get_options()["sd_model_checkpoint"] == "sd_xl_base_1.0.safetensors [31e35c80fc]"
    assert api.set_options({"CLIP_stop_at_last_layers": 2}) is None
    result = api.txt2img(**SMALL)
    assert (result.info["sd_model_name"], result.info["clip_skip"]) == ("sd_xl_base_1.0", 2)
    assert api.set_options({"sd_model_checkpoint": "nothing"}) == {
        "error": "RuntimeError",
        "detail": "",
        "body": "",
        "errors": "model 'nothing' not found",
    }
    assert [one["name"] for one in api.get_loras()] == [name for name, _ in LORAS]
    assert "R-ESRGAN 4x+" in [one["name"] for one in api.get_upscalers()]
    assert api.get_cmd_flags()["api"] is True
    assert api.get_memory()["cuda"]["events"]["oom"] == 0


def test_an_unknown_model_in_a_request_is_ignored_by_default(connect: Connect) -> None:
    request = SMALL | {"override_settings": {"sd_model_checkpoint": "nothing"}}
    assert (
        connect(Automatic1111()).txt2img(**request).info["sd_model_name"] == "v1-5-pruned-emaonly"
    )
    with pytest.raises(RuntimeError, match=r"model .*nothing.* not found"):
        connect(Automatic1111(refuse_unknown_model=True)).txt2img(**request)


def test_an_override_lasts_for_one_request(api: Any) -> None:
    override = {"sd_model_checkpoint": "sd_xl_base_1.0"}
    assert (
        api.txt2img(**SMALL, override_settings=override).info["sd_model_name"] == "sd_xl_base_1.0"
    )
    assert api.util_get_current_model().startswith("v1-5")
    api.txt2img(**SMALL, override_settings=override, override_settings_restore_afterwards=False)
    assert api.util_get_current_model().startswith("sd_xl_base")


# --- access, and other versions ---


def test_basic_auth_is_checked(connect: Connect) -> None:
    engine = Automatic1111(auth=("me", "secret"))
    assert connect(engine, username="me", password="secret").txt2img(**SMALL).images
    refused = {"error": "HTTPException", "body": "", "errors": ""}
    for extra, detail in (
        ({"username": "me", "password": "wrong"}, "Incorrect username or password"),
        ({}, "Not authenticated"),
    ):
        response = raw(connect(engine, **extra), "POST", "txt2img", json=SMALL)
        assert (response.status_code, response.json()) == (401, refused | {"detail": detail})
    # The route of the extension is not guarded.
    assert connect(engine).get_loras()


def test_without_the_api_flag_routes_are_not_found(connect: Connect) -> None:
    response = raw(connect(Automatic1111(api=False)), "GET", "samplers")
    assert (response.status_code, response.json()) == (404, {"detail": "Not Found"})


def test_an_old_server_has_no_schedulers_and_refuses_unknown_samplers(connect: Connect) -> None:
    engine = Automatic1111(old=True)
    api = connect(engine)
    assert raw(api, "GET", "schedulers").status_code == 404
    assert "DPM++ 2M Karras" in api.util_get_sampler_names()
    assert "current_task" not in api.get_progress()
    result = api.txt2img(**SMALL, sampler_name="DPM++ 2M Karras", scheduler="Exponential")
    assert "scheduler" not in result.parameters
    assert (result.info["sampler_name"], engine.jobs[0]["schedule"]) == (
        "DPM++ 2M Karras",
        "Karras",
    )
    response = raw(api, "POST", "txt2img", json=SMALL | {"sampler_name": "nothing"})
    assert (response.status_code, response.json()["detail"]) == (404, "Sampler not found")
    refusing = connect(Automatic1111(unknown_sampler_status=400))
    assert (
        raw(refusing, "POST", "txt2img", json=SMALL | {"sampler_name": "nothing"}).status_code
        == 400
    )


@pytest.mark.parametrize("current_task", ["null", "absent"])
def test_the_current_task_can_be_missing(connect: Connect, current_task: Any) -> None:
    engine = Automatic1111(current_task=current_task)
    api = connect(engine)
    engine.hold_at = 0
    wait_for_result = start_call(lambda: api.txt2img(**SMALL))
    assert engine.reached.wait(5)
    assert api.get_progress().get("current_task", "absent") == (
        None if current_task == "null" else "absent"
    )
    engine.release()
    wait_for_result()


# --- refusals ---


def test_wrong_types_are_reported_for_each_field(api: Any) -> None:
    response = raw(
        api,
        "POST",
        "txt2img",
        json={"steps": "many", "cfg_scale": [1], "prompt": {}, "unheard_of": 1, "n_iter": "2"},
    )
    assert response.status_code == 422
    assert response.json() == {
        "detail": [
            {"loc": ["body", "prompt"], "msg": "str type expected", "type": "type_error.str"},
            {
                "loc": ["body", "steps"],
                "msg": "value is not a valid integer",
                "type": "type_error.integer",
            },
            {
                "loc": ["body", "cfg_scale"],
                "msg": "value is not a valid float",
                "type": "type_error.float",
            },
        ]
    }
    assert raw(api, "POST", "txt2img", json=SMALL | {"unheard_of": {"x": 1}}).status_code == 200
    assert (
        raw(api, "POST", "txt2img", data=b"{", headers={"content-type": "application/json"}).json()[
            "detail"
        ][0]["type"]
        == "value_error.jsondecode"
    )
    assert raw(api, "POST", "txt2img").json() == {
        "detail": [{"loc": ["body"], "msg": "field required", "type": "value_error.missing"}]
    }
    assert raw(api, "GET", "txt2img").status_code == 405
    assert raw(api, "GET", "progress?skip_current_image=perhaps").json()["detail"][0]["loc"] == [
        "query",
        "skip_current_image",
    ]


@pytest.mark.parametrize(
    ("extra", "status", "detail"),
    [
        ({}, 404, "Init image not found"),
        ({"init_images": ["bm90IGFuIGltYWdl"]}, 500, "Invalid encoded image"),
        ({"init_images": ["http://127.0.0.1/x.png"]}, 500, "Requests not allowed"),
        (
            {"init_images": [as_base64(Image.new("RGB", (8, 8)))], "mask": "bm90IGFuIGltYWdl"},
            500,
            "Invalid encoded image",
        ),
        (
            {"init_images": [as_base64(Image.new("RGB", (8, 8)))], "script_name": "nothing"},
            422,
            "Script 'nothing' not found",
        ),
        (
            {"init_images": [as_base64(Image.new("RGB", (8, 8)))], "alwayson_scripts": {"no": {}}},
            422,
            "always on script no not found",
        ),
    ],
)
def test_invalid_image_to_image_requests_are_refused(
    api: Any, extra: dict[str, Any], status: int, detail: str
) -> None:
    response = raw(api, "POST", "img2img", json=SMALL | extra)
    assert (response.status_code, response.json()) == (
        status,
        {"error": "HTTPException", "detail": detail, "body": "", "errors": ""},
    )


@pytest.mark.parametrize(
    ("failure", "name", "part"),
    [("oom", "OutOfMemoryError", "CUDA out of memory."), ("nan", "NansException", "NaNs")],
)
def test_a_failed_job_releases_the_engine(
    api: Any, engine: Automatic1111, failure: Any, name: str, part: str
) -> None:
    engine.failure = failure
    response = raw(api, "POST", "txt2img", json=SMALL)
    assert response.status_code == 500
    assert (response.json()["error"], response.json()["detail"]) == (name, "")
    assert part in response.json()["errors"]
    engine.failure = None
    assert api.txt2img(**SMALL).images
    assert api.get_progress()["state"]["job_count"] == 0
