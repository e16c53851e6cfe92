"""The sd-server test server, tested for each fact in sd-server.md."""

from __future__ import annotations

import http.client
import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.servers.hashed_images import fingerprint
from tests.servers.plain_client import (
    Response,
    b64,
    halves,
    open_base64_image,
    pixel,
    png,
    send_form,
    send_request,
)
from tests.servers.stable_diffusion import StableDiffusion, color
from tests.support.loopback import Handler, Loopback

Serve = Callable[[Handler], Loopback]


@pytest.fixture
def server() -> Iterator[StableDiffusion]:
    server = StableDiffusion(size=(64, 64), loras=("sub/one.safetensors",))
    yield server
    server.release()


@pytest.fixture
def url(server: StableDiffusion, serve: Serve) -> str:
    return serve(server).url


def generate(url: str, **body: Any) -> Response:
    """Post to the generations route."""
    return send_request(
        url, "POST", "/v1/images/generations", {"prompt": "a red fox", "size": "64x64", **body}
    )


def tag(**values: Any) -> str:
    """Return a prompt tag with these parameters."""
    return f"<sd_cpp_extra_args>{json.dumps(values)}</sd_cpp_extra_args>"


def submit(url: str, **body: Any) -> str:
    """Submit a native job; return its id."""
    reply = send_request(
        url, "POST", "/sdcpp/v1/img_gen", {"prompt": "a red fox", "width": 64, "height": 64, **body}
    )
    assert reply.status == 202
    assert reply.json["poll_url"] == f"/sdcpp/v1/jobs/{reply.json['id']}"
    return str(reply.json["id"])


def job(url: str, name: str) -> Any:
    """Return the description of a native job."""
    return send_request(url, "GET", f"/sdcpp/v1/jobs/{name}").json


SQUARE = {"width": 64, "height": 64}


class TestGenerations:
    def test_an_image_has_the_color_of_its_settings(
        self, url: str, server: StableDiffusion
    ) -> None:
        reply = generate(url)
        assert list(reply.json) == ["created", "data", "output_format"]
        assert list(reply.json["data"][0]) == ["b64_json"]
        image = open_base64_image(reply.json["data"][0]["b64_json"])
        assert pixel(image) == color({"prompt": "a red fox", **SQUARE}) == color(server.jobs[0])
        assert re.search(
            r"\nSteps: 20, .*Seed: 42, Size: 64x64, .*Sampler: euler_a discrete",
            image.info["parameters"],
        )

    def test_top_level_settings_are_ignored(self, url: str, server: StableDiffusion) -> None:
        generate(
            url,
            seed=7,
            steps=5,
            cfg_scale=1.5,
            negative_prompt="x",
            sampler="heun",
            model="m",
            stream=True,
            response_format="url",
        )
        assert pixel(open_base64_image(generate(url).json["data"][0]["b64_json"])) == color(
            server.jobs[0]
        )
        assert (server.jobs[0]["seed"], server.jobs[0]["steps"]) == (42, 20)

    def test_the_tag_sets_fields_that_the_top_level_cannot(
        self, url: str, server: StableDiffusion
    ) -> None:
        sampling = {
            "sample_steps": 9,
            "sample_method": "heun",
            "scheduler": "karras",
            "guidance": {"txt_cfg": 2.5},
        }
        generate(
            url,
            prompt="before "
            + tag(seed=7, negative_prompt="rain", sample_params=sampling)
            + "after",
        )
        settings = server.jobs[0]
        assert settings["prompt"] == "before after"
        assert (
            settings["seed"],
            settings["negative_prompt"],
            settings["steps"],
            settings["cfg_scale"],
        ) == (
            7,
            "rain",
            9,
            2.5,
        )
        assert (settings["sampler"], settings["scheduler"]) == ("heun", "karras")

    def test_new_and_old_builds_ignore_the_tag_of_the_other(
        self, url: str, server: StableDiffusion
    ) -> None:
        both = tag(steps=5, cfg_scale=1.0, sample_method="lcm", sample_params={"sample_steps": 6})
        generate(url, prompt=both)
        server.flat_tag = True
        generate(url, prompt=both)
        assert [(settings["steps"], settings["sampler"]) for settings in server.jobs] == [
            (6, "euler_a"),
            (5, "lcm"),
        ]

    def test_only_the_first_tag_is_parsed_and_all_are_deleted(
        self, url: str, server: StableDiffusion
    ) -> None:
        generate(url, prompt=tag(seed=1) + " a " + tag(seed=2) + " b")
        assert (server.jobs[0]["prompt"], server.jobs[0]["seed"]) == (" a  b", 1)
        generate(url, prompt="<sd_cpp_extra_args></sd_cpp_extra_args>a" + tag(seed=2))
        assert (server.jobs[1]["prompt"], server.jobs[1]["seed"]) == ("a", 42)

    def test_a_tag_with_a_newline_stays_as_text(self, url: str, server: StableDiffusion) -> None:
        prompt = '<sd_cpp_extra_args>{"seed":\n7}</sd_cpp_extra_args>a'
        generate(url, prompt=prompt)
        assert (server.jobs[0]["prompt"], server.jobs[0]["seed"]) == (prompt, 42)

    def test_a_tag_formed_by_a_deletion_stays_as_text(
        self, url: str, server: StableDiffusion
    ) -> None:
        generate(
            url,
            prompt="<sd_cpp_<sd_cpp_extra_args>{}</sd_cpp_extra_args>"
            'extra_args>{"seed":9}</sd_cpp_extra_args>',
        )
        assert server.jobs[0]["prompt"] == '<sd_cpp_extra_args>{"seed":9}</sd_cpp_extra_args>'
        assert server.jobs[0]["seed"] == 42

    @pytest.mark.parametrize(
        "body",
        [
            "{",
            "seed",
            '{"prompt": "</sd_cpp_extra_args>"}',
            '{"init_image": "nothing"}',
            '{"lora": [{}]}',
        ],
    )
    def test_an_invalid_tag_is_refused(self, url: str, body: str) -> None:
        reply = generate(url, prompt=f"<sd_cpp_extra_args>{body}</sd_cpp_extra_args>x")
        assert (reply.status, reply.json) == (400, {"error": "invalid sd_cpp_extra_args"})

    def test_wrong_types_in_a_tag_are_dropped_except_in_arrays(
        self, url: str, server: StableDiffusion
    ) -> None:
        generate(
            url,
            prompt="x" + tag(seed="5", sample_params={"sample_steps": 20.0, "sample_method": 5}),
        )
        assert (server.jobs[0]["seed"], server.jobs[0]["steps"]) == (42, 20)
        assert (
            generate(url, prompt="x" + tag(sample_params={"custom_sigmas": ["a"]})).json["error"]
            == "server_error"
        )

    def test_a_long_tag_crashes_the_process(self, url: str) -> None:
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            generate(url, prompt="<sd_cpp_extra_args>" + "a" * 50_000)
        assert (
            generate(url, prompt="<sd_cpp_extra_args>" + "a" * 30_000 + "\n" + "a" * 30_000).status
            == 200
        )

    def test_a_prompt_of_only_a_tag_is_accepted_and_an_empty_one_is_not(self, url: str) -> None:
        assert generate(url, prompt=tag()).status == 200
        assert generate(url, prompt="").json == {"error": "prompt required"}
        assert send_request(url, "POST", "/v1/images/generations", b"").json == {
            "error": "empty body"
        }

    @pytest.mark.parametrize(
        "body", [{"n": "2"}, {"n": None}, {"prompt": None}, {"size": 5}, {"output_format": None}]
    )
    def test_null_and_wrong_types_are_a_server_error(self, url: str, body: dict[str, Any]) -> None:
        reply = generate(url, **body)
        assert (reply.status, reply.json["error"]) == (500, "server_error")
        assert "type_error" in reply.json["message"]

    @pytest.mark.parametrize(
        "body", [b"{", b"[]", b'{"prompt": NaN}', b'{"prompt": "\\ud800"}', b"\xff"]
    )
    def test_invalid_json_is_a_server_error(self, url: str, body: bytes) -> None:
        reply = send_request(url, "POST", "/v1/images/generations", body)
        assert (reply.status, reply.json["error"]) == (500, "server_error")

    @pytest.mark.parametrize(
        ("size", "expected"),
        [
            ("auto", (64, 64)),
            ("128X128", (64, 64)),
            ("-1x128", (64, 64)),
            ("128x", (128, 64)),
            ("x128", (64, 64)),
            ("65x70", (72, 72)),
            ("8x8", (8, 8)),
        ],
    )
    def test_a_size_is_limited_and_rounded_up(
        self, url: str, size: str, expected: tuple[int, int]
    ) -> None:
        assert (
            open_base64_image(generate(url, size=size).json["data"][0]["b64_json"]).size == expected
        )

    def test_a_batch_is_limited_and_counts_its_seeds_up(self, url: str) -> None:
        items = generate(url, n=99, prompt="x" + tag(seed=7)).json["data"]
        assert len(items) == 8
        assert [pixel(open_base64_image(item["b64_json"])) for item in items] == [
            color({"prompt": "x", "seed": 7, **SQUARE}, index) for index in range(8)
        ]
        assert len({item["b64_json"] for item in items}) == 8
        assert "Seed: 9," in open_base64_image(items[2]["b64_json"]).info["parameters"]
        assert len(generate(url, n=-1).json["data"]) == 1

    def test_output_formats_are_png_jpeg_and_webp(self, url: str) -> None:
        assert (
            open_base64_image(
                generate(url, output_format="WEBP").json["data"][0]["b64_json"]
            ).format
            == "WEBP"
        )
        reply = generate(url, output_format="jpg")
        assert (reply.status, reply.json) == (
            400,
            {"error": "invalid output_format, must be one of [png, jpeg, webp]"},
        )

    def test_invalid_settings_are_refused(self, url: str) -> None:
        assert generate(
            url, prompt="x" + tag(sample_params={"guidance": {"txt_cfg": -1}})
        ).json == {"error": "invalid params"}
        assert generate(url, prompt="x" + tag(strength=1.5)).json == {"error": "invalid params"}

    def test_failures_can_be_injected(self, url: str, server: StableDiffusion) -> None:
        server.failing = True
        assert (generate(url).status, generate(url).json) == (
            500,
            {"error": "generate_image returned no results"},
        )
        server.failing, server.empty_data = False, True
        assert (generate(url).status, generate(url).json["data"]) == (200, [])
        server.empty_data, server.video_only = False, True
        assert generate(url).json == {"error": "loaded model does not support img_gen"}
        server.video_only, server.layers = False, 2
        assert len(generate(url, n=2).json["data"]) == 4
        server.crash = True
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            generate(url)


class TestEdits:
    def test_the_first_upload_is_init_image_and_reference(
        self, url: str, server: StableDiffusion
    ) -> None:
        one, two = png("red"), png("blue")
        reply = send_form(
            url,
            "/v1/images/edits",
            [("prompt", "a hat"), ("image[]", one, "image/png"), ("image[]", two, "image/png")],
        )
        settings = server.jobs[0]
        assert (settings["init"], settings["references"]) == (
            fingerprint(one),
            [fingerprint(one), fingerprint(two)],
        )
        assert (settings["strength"], settings["width"], settings["height"]) == (0.75, 64, 48)
        assert pixel(open_base64_image(reply.json["data"][0]["b64_json"])) == color(settings)

    def test_only_the_first_image_field_is_read_without_an_image_list(
        self, url: str, server: StableDiffusion
    ) -> None:
        fields = [
            ("prompt", "x"),
            ("image", png("red"), "image/png"),
            ("image", png("blue"), "image/png"),
        ]
        send_form(url, "/v1/images/edits", fields)
        assert server.jobs[0]["references"] == [fingerprint(png("red"))]
        send_form(url, "/v1/images/edits", [*fields, ("image[]", png("lime"), "image/png")])
        assert server.jobs[1]["references"] == [fingerprint(png("lime"))]

    @pytest.mark.parametrize(
        "upload", [png(90, mode="L"), png((9, 9), mode="LA"), png()[:60], b"no image"]
    )
    def test_unreadable_uploads_are_skipped(
        self, url: str, server: StableDiffusion, upload: bytes
    ) -> None:
        reply = send_form(
            url, "/v1/images/edits", [("prompt", "x"), ("image[]", upload, "image/png")]
        )
        assert reply.status == 200
        assert (
            server.jobs[0]["init"],
            server.jobs[0]["references"],
            server.jobs[0]["strength"],
        ) == (None, [], None)

    def test_a_mask_keeps_black_and_repaints_white(self, url: str, server: StableDiffusion) -> None:
        fields = [
            ("prompt", "x"),
            ("image[]", png("red"), "image/png"),
            ("mask", halves(0, 255), "image/png"),
        ]
        image = open_base64_image(
            send_form(url, "/v1/images/edits", fields).json["data"][0]["b64_json"]
        )
        assert pixel(image, 0) == (255, 0, 0)
        assert pixel(image, 63) == color(server.jobs[0])

    def test_the_alpha_channel_of_a_mask_is_dropped(
        self, url: str, server: StableDiffusion
    ) -> None:
        hole = halves((255, 255, 255, 255), (255, 255, 255, 0), mode="RGBA")
        fields = [
            ("prompt", "x"),
            ("image[]", png("red"), "image/png"),
            ("mask", hole, "image/png"),
        ]
        image = open_base64_image(
            send_form(url, "/v1/images/edits", fields).json["data"][0]["b64_json"]
        )
        assert pixel(image, 0) == pixel(image, 63) == color(server.jobs[0])

    def test_another_aspect_ratio_crops_the_image_around_its_center(self, url: str) -> None:
        fields = [
            ("prompt", "x"),
            ("size", "32x48"),
            ("image[]", halves("red", "blue", mode="RGB"), "image/png"),
        ]
        image = open_base64_image(
            send_form(
                url, "/v1/images/edits", [*fields, ("mask", png(0, mode="L"), "image/png")]
            ).json["data"][0]["b64_json"]
        )
        assert (image.size, pixel(image, 0), pixel(image, 31)) == (
            (32, 48),
            (255, 0, 0),
            (0, 0, 255),
        )

    def test_invalid_edits_are_refused(self, url: str) -> None:
        assert send_request(url, "POST", "/v1/images/edits", {}).json == {
            "error": "Content-Type must be multipart/form-data"
        }
        assert send_form(url, "/v1/images/edits", [("prompt", "")]).json == {
            "error": "prompt required"
        }
        assert send_form(url, "/v1/images/edits", [("prompt", "x"), ("image", "text")]).json == {
            "error": "at least one image[] required"
        }
        webp = [("prompt", "x"), ("output_format", "webp"), ("image", png(), "image/png")]
        assert send_form(url, "/v1/images/edits", webp).json == {
            "error": "invalid output_format, must be one of [png, jpeg]"
        }

    def test_invalid_numbers_fall_back_to_defaults(self, url: str) -> None:
        fields = [
            ("prompt", "x"),
            ("n", "two"),
            ("output_compression", "much"),
            ("size", "auto"),
            ("image", png(), "image/png"),
        ]
        assert len(send_form(url, "/v1/images/edits", fields).json["data"]) == 1


class TestSdapi:
    def txt2img(self, url: str, **body: Any) -> Response:
        """Post a text-to-image request."""
        return send_request(
            url,
            "POST",
            "/sdapi/v1/txt2img",
            {"prompt": "a red fox", "width": 64, "height": 64, **body},
        )

    def img2img(self, url: str, **body: Any) -> Response:
        """Post an image-to-image request."""
        return send_request(url, "POST", "/sdapi/v1/img2img", {"prompt": "a red fox", **body})

    def test_settings_are_read_and_reported(self, url: str, server: StableDiffusion) -> None:
        sent = {
            "steps": 9,
            "cfg_scale": 2.5,
            "seed": 7,
            "sampler_name": "DPM++ 2M",
            "scheduler": "karras",
            "negative_prompt": "rain",
            "n_iter": 4,
        }
        reply = self.txt2img(url, **sent, batch_size=2, model="m")
        info = json.loads(reply.json["info"])
        assert (info["seed"], info["all_seeds"], info["sampler_name"], info["steps"]) == (
            7,
            [7, 8],
            "dpm++2m",
            9,
        )
        assert (info["version"], len(info["infotexts"])) == ("stable-diffusion.cpp", 2)
        assert reply.json["parameters"]["model"] == "m"
        expected = {
            "prompt": "a red fox",
            "negative_prompt": "rain",
            "steps": 9,
            "cfg_scale": 2.5,
            "seed": 7,
            "sampler": "dpm++2m",
        }
        assert [pixel(open_base64_image(item)) for item in reply.json["images"]] == [
            color({**expected, "scheduler": "karras", **SQUARE}, index) for index in range(2)
        ]

    @pytest.mark.parametrize(
        ("name", "used"),
        [
            ("Euler a", "euler_a"),
            ("K_DPMPP_2M", "dpm++2m"),
            ("dpm++2s_a", "dpm++2s_a"),
            ("DPM++ 2S a", "euler"),
            ("DPM++2M", "euler"),
            ("nonsense", "euler"),
            ("euler_a_cfg_pp", "euler_a_cfg_pp"),
            ("Euler_a_cfg_pp", "euler_cfg_pp"),
        ],
    )
    def test_sampler_names_are_translated(
        self, url: str, server: StableDiffusion, name: str, used: str
    ) -> None:
        server.sampler = "euler"
        assert self.txt2img(url, sampler_name=name).status == 200
        assert server.jobs[0]["sampler"] == used

    def test_scheduler_names_must_match_exactly(self, url: str, server: StableDiffusion) -> None:
        for name in ("Karras", "Automatic", "normal", "sgm_uniform"):
            self.txt2img(url, scheduler=name)
        assert [settings["scheduler"] for settings in server.jobs] == [
            "discrete",
            "discrete",
            "discrete",
            "sgm_uniform",
        ]

    def test_the_seed_is_random_unless_set(self, url: str, server: StableDiffusion) -> None:
        server.clock = lambda: 1234.5
        for seed in ({}, {"seed": -1}, {"seed": 2**31}):
            self.txt2img(url, **seed)
        assert [settings["seed"] for settings in server.jobs] == [1234, 1234, 1234]
        assert self.txt2img(url, seed=None).json["error"] == "server_error"

    def test_the_tag_overrides_only_the_fields_read_before_it(
        self, url: str, server: StableDiffusion
    ) -> None:
        prompt_tag = tag(
            seed=9,
            width=128,
            sample_params={"sample_steps": 3, "sample_method": "heun", "scheduler": "karras"},
        )
        self.txt2img(url, prompt=prompt_tag + "x", seed=1, steps=8, sampler_name="lcm")
        settings = server.jobs[0]
        assert (settings["prompt"], settings["seed"], settings["width"], settings["steps"]) == (
            "x",
            9,
            128,
            3,
        )
        assert (settings["sampler"], settings["scheduler"]) == ("lcm", "karras")

    def test_steps_and_batch_size_are_clamped(self, url: str, server: StableDiffusion) -> None:
        self.txt2img(url, steps=500, batch_size=50)
        assert (server.jobs[0]["steps"], server.jobs[0]["batch_count"]) == (100, 8)

    def test_one_dimension_alone_keeps_the_size_of_the_image(
        self, url: str, server: StableDiffusion
    ) -> None:
        assert self.txt2img(url, width=0).json == {"error": "width and height must be positive"}
        self.img2img(url, init_images=[b64(png())], width=128)
        self.img2img(url, init_images=[b64(png())], width=128, height=64)
        assert [(settings["width"], settings["height"]) for settings in server.jobs] == [
            (64, 48),
            (128, 64),
        ]

    def test_img2img_reads_init_image_mask_and_strength(
        self, url: str, server: StableDiffusion
    ) -> None:
        init = png("red")
        reply = self.img2img(
            url,
            init_images=["data:image/png;base64," + b64(init), "second"],
            denoising_strength=1.5,
            mask=b64(halves(0, 255)),
        )
        image = open_base64_image(reply.json["images"][0])
        assert (pixel(image, 0), pixel(image, 63)) == ((255, 0, 0), color(server.jobs[0]))
        assert (server.jobs[0]["strength"], server.jobs[0]["init"]) == (1.0, fingerprint(init))
        reply = self.img2img(
            url, init_images=[b64(init)], mask=b64(halves(0, 255)), inpainting_mask_invert=1
        )
        assert pixel(open_base64_image(reply.json["images"][0]), 63) == (255, 0, 0)
        assert server.jobs[1]["strength"] == 0.75
        assert json.loads(reply.json["info"])["denoising_strength"] == 0.75

    @pytest.mark.parametrize(
        "init", ["junk", b64(png())[:50] + "\n" + b64(png())[50:], b64(png(90, mode="L"))]
    )
    def test_an_unreadable_init_image_gives_text_to_image(
        self, url: str, server: StableDiffusion, init: str
    ) -> None:
        assert self.img2img(url, init_images=[init]).status == 200
        assert server.jobs[0]["init"] is None

    def test_extra_images_are_references(self, url: str, server: StableDiffusion) -> None:
        self.txt2img(url, extra_images=[b64(png("red")), "junk", 5])
        assert server.jobs[0]["references"] == [fingerprint(png("red"))]

    def test_loras_are_known_only_after_being_listed(
        self, url: str, server: StableDiffusion
    ) -> None:
        loras = [{"path": "sub/one.safetensors", "multiplier": 0.5}]
        assert self.txt2img(url, lora=loras).json == {
            "error": "invalid lora path: sub/one.safetensors"
        }
        assert send_request(url, "GET", "/sdapi/v1/loras").json == [
            {"name": "one", "path": "sub/one.safetensors"}
        ]
        assert self.txt2img(url, lora=loras).status == 200
        assert server.jobs[0]["loras"] == {"sub/one.safetensors": 0.5}
        assert self.txt2img(url, lora=[{}]).json == {"error": "lora.path required"}
        assert self.txt2img(url, prompt="x <lora:one:1>").status == 200

    def test_hires_enlarges_the_image(self, url: str) -> None:
        assert open_base64_image(
            self.txt2img(url, enable_hr=True, hr_scale=1.5).json["images"][0]
        ).size == (
            96,
            96,
        )

    def test_samplers_models_and_options_are_listed(self, url: str) -> None:
        assert send_request(url, "GET", "/sdapi/v1/samplers").json[0] == {
            "name": "default",
            "aliases": ["default"],
            "options": {},
        }
        assert {"name": "karras", "label": "karras"} in send_request(
            url, "GET", "/sdapi/v1/schedulers"
        ).json
        assert send_request(url, "GET", "/sdapi/v1/options").json == {
            "samples_format": "png",
            "sd_model_checkpoint": "tiny-image",
        }
        assert send_request(url, "GET", "/sdapi/v1/sd-models").json[0]["hash"] == "8888888888"
        assert send_request(url, "GET", "/sdapi/v1/upscalers").json[0]["name"] == "None"
        assert send_request(url, "GET", "/sdapi/v1/latent-upscale-modes").json[0] == {
            "name": "Latent"
        }
        assert send_request(url, "GET", "/v1/models").json == {
            "data": [{"id": "sd-cpp-local", "object": "model", "owned_by": "local"}]
        }

    @pytest.mark.parametrize(
        "path",
        ["/sdapi/v1/progress", "/sdapi/v1/cmd-flags", "/sdapi/v1/memory", "/health", "/sdcpp/v1"],
    )
    def test_missing_routes_give_an_empty_404(self, url: str, path: str) -> None:
        reply = send_request(url, "GET", path)
        assert (reply.status, reply.body, reply.content_type) == (404, b"", None)
        assert send_request(url, "POST", "/sdapi/v1/interrupt").status == 404
        assert send_request(url, "POST", "/v1/images/variations").status == 404


class TestNative:
    def test_a_job_is_queued_runs_and_completes_or_is_cancelled(
        self, url: str, server: StableDiffusion
    ) -> None:
        server.hold()
        first, second, third = (submit(url, seed=seed) for seed in (1, 2, 3))
        jobs = [job(url, name) for name in (first, second, third)]
        assert [item["status"] for item in jobs] == ["generating", "queued", "queued"]
        assert [item["queue_position"] for item in jobs] == [0, 1, 2]
        assert jobs[1]["started"] is None and jobs[0]["started"] is not None
        assert "result" not in jobs[0] and "result" not in jobs[1]
        assert send_request(url, "POST", f"/sdcpp/v1/jobs/{first}/cancel").status == 409
        cancelled = send_request(url, "POST", f"/sdcpp/v1/jobs/{second}/cancel")
        assert (cancelled.status, cancelled.json["status"], cancelled.json["error"]["code"]) == (
            200,
            "cancelled",
            "cancelled",
        )
        assert job(url, third)["queue_position"] == 1
        server.release()
        assert server.ended(first) and server.ended(third)
        done = job(url, third)
        assert (done["status"], done["queue_position"], done["error"]) == ("completed", 0, None)
        [image] = done["result"]["images"]
        assert done["result"]["output_format"] == "png" and image["index"] == 0
        assert pixel(open_base64_image(image["b64_json"])) == color(
            {"prompt": "a red fox", "seed": 3, **SQUARE}
        )
        again = send_request(url, "POST", f"/sdcpp/v1/jobs/{third}/cancel").json
        assert again == job(url, third) == done

    def test_a_job_can_be_held_in_the_queue(self, url: str, server: StableDiffusion) -> None:
        server.hold("queued")
        name = submit(url)
        assert job(url, name)["status"] == server.status(name) == "queued"
        server.release()
        assert server.ended(name)

    def test_the_fields_of_a_request_are_read(self, url: str, server: StableDiffusion) -> None:
        sampling = {
            "sample_steps": 9,
            "sample_method": "heun",
            "scheduler": "karras",
            "guidance": {"txt_cfg": 2.5, "distilled_guidance": 2},
        }
        body = {
            "negative_prompt": "rain",
            "seed": 7,
            "batch_count": 2,
            "sample_params": sampling,
            "output_format": "jpeg",
            "steps": 3,
        }
        name = submit(url, **body, prompt=tag(seed=1) + "x")
        assert server.ended(name)
        settings = server.jobs[0]
        assert (settings["prompt"], settings["seed"], settings["steps"], settings["cfg_scale"]) == (
            tag(seed=1) + "x",
            7,
            9,
            2.5,
        )
        assert (
            settings["negative_prompt"],
            settings["sampler"],
            settings["scheduler"],
            settings["guidance"],
        ) == ("rain", "heun", "karras", 2.0)
        images = job(url, name)["result"]["images"]
        assert [open_base64_image(item["b64_json"]).format for item in images] == ["JPEG", "JPEG"]

    def test_wrong_types_are_dropped(self, url: str, server: StableDiffusion) -> None:
        reply = send_request(
            url,
            "POST",
            "/sdcpp/v1/img_gen",
            {
                "prompt": 5,
                "seed": "7",
                "width": 64.0,
                "sample_params": {"sample_method": "Euler a"},
            },
        )
        assert (reply.status, reply.json["status"]) == (202, "queued")
        settings = server.jobs[0]
        assert (settings["prompt"], settings["seed"], settings["width"], settings["sampler"]) == (
            "",
            42,
            64,
            "euler_a",
        )
        assert send_request(url, "POST", "/sdcpp/v1/img_gen", {}).status == 202

    def test_input_images_are_read(self, url: str, server: StableDiffusion) -> None:
        init, other = png("red"), png("blue")
        images = {
            "init_image": b64(init),
            "ref_images": [b64(other)],
            "mask_image": b64(halves(0, 255)),
            "strength": 0.5,
        }
        name = submit(url, **images, height=48)
        assert server.ended(name)
        image = open_base64_image(job(url, name)["result"]["images"][0]["b64_json"])
        assert (pixel(image, 0), pixel(image, 63)) == ((255, 0, 0), color(server.jobs[0]))
        assert (server.jobs[0]["strength"], server.jobs[0]["references"]) == (
            0.5,
            [fingerprint(other)],
        )
        submit(url, init_image=None)
        bare = send_request(
            url,
            "POST",
            "/sdcpp/v1/img_gen",
            {"prompt": "x", "init_image": b64(png(size=(128, 128)))},
        )
        assert bare.status == 202
        assert (server.jobs[2]["width"], server.jobs[2]["height"]) == (64, 64)

    @pytest.mark.parametrize(
        "body",
        [
            {"init_image": "junk"},
            {"init_image": 5},
            {"init_image": b64(png(90, mode="L"))},
            {"ref_images": ["junk"]},
            {"mask_image": "junk"},
            {"lora": [{"path": "two.safetensors"}]},
            {"strength": 2},
            {"sample_params": {"guidance": {"txt_cfg": -1}}},
        ],
    )
    def test_invalid_parameters_are_refused(self, url: str, body: dict[str, Any]) -> None:
        reply = send_request(url, "POST", "/sdcpp/v1/img_gen", body)
        assert (reply.status, reply.json) == (400, {"error": "invalid generation parameters"})

    def test_other_invalid_requests_are_refused(self, url: str) -> None:
        reply = send_request(url, "POST", "/sdcpp/v1/img_gen", b"{")
        assert (reply.status, reply.json["error"]) == (400, "invalid json")
        assert send_request(url, "POST", "/sdcpp/v1/img_gen", b"").json == {"error": "empty body"}
        reply = send_request(url, "POST", "/sdcpp/v1/img_gen", {"output_format": None})
        assert (reply.status, reply.json["error"]) == (500, "server_error")
        assert (
            send_request(url, "POST", "/sdcpp/v1/img_gen", {"output_format": "gif"}).status == 400
        )
        assert (
            send_request(
                url, "POST", "/sdcpp/v1/img_gen", {"lora": [{"path": "sub/one.safetensors"}]}
            ).status
            == 202
        )

    def test_the_queue_is_full_at_64_jobs(self, url: str, server: StableDiffusion) -> None:
        server.hold()
        for _ in range(64):
            submit(url)
        reply = send_request(url, "POST", "/sdcpp/v1/img_gen", {"prompt": "x"})
        assert (reply.status, reply.json, reply.headers["retry-after"]) == (
            429,
            {"error": "job queue is full"},
            None,
        )
        server.lose_jobs()
        assert submit(url)

    def test_jobs_expire_and_are_lost_with_the_process(
        self, url: str, server: StableDiffusion
    ) -> None:
        name = submit(url)
        assert server.ended(name)
        server.age(601)
        reply = send_request(url, "GET", f"/sdcpp/v1/jobs/{name}")
        assert (reply.status, reply.json) == (410, {"error": "job expired"})
        server.age(600)
        assert send_request(url, "POST", f"/sdcpp/v1/jobs/{name}/cancel").json == {
            "error": "job not found"
        }
        other = submit(url)
        server.lose_jobs()
        assert send_request(url, "GET", f"/sdcpp/v1/jobs/{other}").status == 404

    def test_failed_and_lost_jobs_are_reported(self, url: str, server: StableDiffusion) -> None:
        server.failing = True
        name = submit(url)
        assert server.ended(name)
        failed = job(url, name)
        assert (failed["status"], failed["result"]) == ("failed", None)
        assert failed["error"] == {
            "code": "generation_failed",
            "message": "generate_image returned no results",
        }
        server.crash = True
        name = submit(url)
        assert server.ended(name)
        assert send_request(url, "GET", f"/sdcpp/v1/jobs/{name}").status == 404

    def test_capabilities_are_listed(self, url: str) -> None:
        capabilities = send_request(url, "GET", "/sdcpp/v1/capabilities").json
        assert capabilities["features_by_mode"]["img_gen"]["cancel_queued"] is True
        assert capabilities["features_by_mode"]["img_gen"]["cancel_generating"] is False
        assert (
            capabilities["limits"]["max_batch_count"] == 8
            and capabilities["limits"]["max_queue_size"] == 64
        )
        assert (
            capabilities["model"]["stem"] == "tiny-image"
            and "euler_a" in capabilities["samplers"]
            and "karras" in capabilities["schedulers"]
        )


class TestProcess:
    def test_one_image_is_generated_at_a_time(self, url: str, server: StableDiffusion) -> None:
        server.hold()
        with ThreadPoolExecutor() as pool:
            waiting = [pool.submit(generate, url) for _ in range(3)]
            assert server.reached(3)
            assert not any(item.done() for item in waiting)
            server.release()
            assert [item.result().status for item in waiting] == [200] * 3

    def test_a_request_continues_when_its_client_disconnects(
        self, url: str, server: StableDiffusion
    ) -> None:
        server.hold()
        with pytest.raises(TimeoutError):
            send_request(url, "POST", "/v1/images/generations", {"prompt": "x"}, seconds=0.2)
        assert server.reached(1)
        server.release()
        assert len(server.jobs) == 1

    def test_a_restart_closes_waiting_connections(self, url: str, server: StableDiffusion) -> None:
        server.hold()
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(generate, url)
            assert server.reached(1)
            server.lose_jobs()
            with pytest.raises((http.client.HTTPException, ConnectionError)):
                waiting.result()

    def test_a_post_without_a_length_is_answered_late(self, serve: Serve) -> None:
        server = StableDiffusion()
        server.patience = 0.3
        loop = serve(server)
        answered = threading.Event()

        def post() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", loop.port, timeout=10)
            connection.putrequest("POST", "/sdcpp/v1/jobs/x/cancel")
            connection.endheaders()
            assert connection.getresponse().status == 404
            connection.close()
            answered.set()

        threading.Thread(target=post).start()
        assert not answered.wait(0.2)
        assert answered.wait(5)
