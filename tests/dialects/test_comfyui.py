"""Workflows and their slots, history, the queue and the websocket's frames, without a server."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import struct
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import majordomo as md
from majordomo import imagegen
from majordomo.dialects.comfyui.events import ComfyEventParser
from majordomo.dialects.comfyui.prompts import ComfyUICodec, decode_choices
from majordomo.dialects.comfyui.templates import template
from majordomo.dialects.comfyui.workflow import Workflow
from majordomo.dialects.image_jobs import QueueEntry, StoredFile, UploadedFile, UploadedInputs
from majordomo.settings import Limits
from tests.servers.plain_client import png

LIMITS = Limits()
NO_FILES = UploadedInputs()


def node(kind: str, title: str = "", **inputs: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"class_type": kind, "inputs": inputs}
    return made | ({"_meta": {"title": title}} if title else {})


def sampler(**inputs: Any) -> dict[str, Any]:
    given = {
        "seed": 1,
        "steps": 20,
        "cfg": 8.0,
        "sampler_name": "euler",
        "scheduler": "normal",
        "denoise": 1.0,
        "model": ["4", 0],
    }
    links = {"positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}
    return node("KSampler", **(given | links | inputs))


def graph(**nodes: Any) -> dict[str, Any]:
    """The default workflow of the editor; `n3` replaces node 3."""
    made = {
        "3": sampler(),
        "4": node("CheckpointLoaderSimple", ckpt_name="a.safetensors"),
        "5": node("EmptyLatentImage", width=512, height=512, batch_size=1),
        "6": node("CLIPTextEncode", "CLIP Text Encode (Prompt)", text="a", clip=["4", 1]),
        "7": node("CLIPTextEncode", "CLIP Text Encode (Prompt)", text="b", clip=["4", 1]),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", filename_prefix="ComfyUI", images=["8", 0]),
    }
    return made | {name.removeprefix("n"): entry for name, entry in nodes.items()}


def slots(source: Any, **given: Any) -> dict[str, Any]:
    return dict(Workflow.parse(source, given or None).slots)


def test_slots_follow_the_samplers_links() -> None:
    assert slots(graph()) == {
        "prompt": (("6", "text"),),
        "negative_prompt": (("7", "text"),),
        "seed": (("3", "seed"),),
        "steps": (("3", "steps"),),
        "cfg_scale": (("3", "cfg"),),
        "sampler": (("3", "sampler_name"),),
        "scheduler": (("3", "scheduler"),),
        "strength": (("3", "denoise"),),
        "width": (("5", "width"),),
        "height": (("5", "height"),),
        "n": (("5", "batch_size"),),
        "model": (("4", "ckpt_name"),),
    }


@pytest.mark.parametrize(
    "form",
    [
        json.dumps,
        lambda made: json.dumps(made).encode(),
        lambda made: {"prompt": made, "client_id": "x"},
    ],
)
def test_a_workflow_may_be_text_or_a_whole_body(form: Any) -> None:
    assert slots(form(graph())) == slots(graph())


def test_any_mappings_and_tuples_do() -> None:
    made = graph(n3=MappingProxyType(sampler(positive=("6", 0))))
    found = Workflow.parse(MappingProxyType(made))
    assert found.slots["prompt"] == (("6", "text"),)
    assert found.graph["3"]["inputs"]["positive"] == ["6", 0]


def test_what_lies_between_is_passed() -> None:
    found = slots(
        graph(
            n3=sampler(
                positive=["20", 0], negative=["20", 1], latent_image=["13", 0], seed=["30", 0]
            ),
            n20=node(
                "ControlNetApplyAdvanced", positive=["21", 0], negative=["7", 0], strength=1.0
            ),
            n21=node("FluxGuidance", conditioning=["6", 0], guidance=3.5),
            n30=node("PrimitiveInt", value=5),
            n10=node("LoadImage", image="a.png"),
            n11=node(
                "ImageScale",
                image=["10", 0],
                upscale_method="area",
                width=64,
                height=64,
                crop="center",
            ),
            n12=node("VAEEncode", pixels=["11", 0], vae=["4", 2]),
            n14=node("LoadImageMask", image="m.png", channel="red"),
            n15=node("GrowMask", mask=["14", 0], expand=6),
            n13=node("SetLatentNoiseMask", samples=["12", 0], mask=["15", 0]),
        )
    )
    assert (found["prompt"], found["negative_prompt"]) == ((("6", "text"),), (("7", "text"),))
    assert found["seed"] == (("30", "value"),)
    assert (found["images"], found["mask"]) == ((("10", "image"),), (("14", "image"),))
    assert found["width"] == (("11", "width"),)
    assert "n" not in found


def test_texts_of_several_encoders_are_set_together() -> None:
    made = graph(
        n6=node(
            "CLIPTextEncodeSDXL", text_g="a", text_l="a", width=1024, height=1024, clip=["4", 1]
        )
    )
    assert slots(made)["prompt"] == (("6", "text_g"), ("6", "text_l"))
    assert slots(
        graph(n6=node("CLIPTextEncode", text=["40", 0]), n40=node("PrimitiveString", value="x"))
    )["prompt"] == (("40", "value"),)


def test_an_emptied_negative_is_no_slot() -> None:
    zero = graph(
        n3=sampler(negative=["22", 0]), n22=node("ConditioningZeroOut", conditioning=["6", 0])
    )
    assert "negative_prompt" not in slots(zero)
    assert "negative_prompt" not in slots(graph(n3=sampler(negative=["6", 0])))


def test_titles_win_over_links_and_slots_over_titles() -> None:
    made = graph(
        n41=node("PrimitiveStringMultiline", "Prompt", value="x"),
        n42=node("CLIPTextEncode", "negative", text="y"),
    )
    assert slots(made)["prompt"] == (("41", "value"),)
    assert slots(made)["negative_prompt"] == (("42", "text"),)
    assert slots(made, prompt=("6", "text"))["prompt"] == (("6", "text"),)
    assert slots(made, prompt=[("6", "text"), ["7", "text"]], image=("4", "ckpt_name"))[
        "prompt"
    ] == (("6", "text"), ("7", "text"))


def test_a_custom_sampler_has_its_settings_in_nodes_of_their_own() -> None:
    made = {
        "6": node("CLIPTextEncode", text="a", clip=["11", 0]),
        "8": node("VAEDecode", samples=["13", 0], vae=["10", 0]),
        "9": node("SaveImage", filename_prefix="Flux", images=["8", 0]),
        "13": node(
            "SamplerCustomAdvanced",
            noise=["25", 0],
            guider=["22", 0],
            sampler=["16", 0],
            sigmas=["17", 0],
            latent_image=["27", 0],
        ),
        "16": node("KSamplerSelect", sampler_name="euler"),
        "17": node("BasicScheduler", scheduler="simple", steps=20, denoise=1.0, model=["30", 0]),
        "22": node("BasicGuider", model=["30", 0], conditioning=["26", 0]),
        "25": node("RandomNoise", noise_seed=5),
        "26": node("FluxGuidance", guidance=3.5, conditioning=["6", 0]),
        "27": node("EmptySD3LatentImage", width=1024, height=1024, batch_size=1),
    }
    assert slots(made) == {
        "prompt": (("6", "text"),),
        "seed": (("25", "noise_seed"),),
        "steps": (("17", "steps"),),
        "sampler": (("16", "sampler_name"),),
        "scheduler": (("17", "scheduler"),),
        "strength": (("17", "denoise"),),
        "width": (("27", "width"),),
        "height": (("27", "height"),),
        "n": (("27", "batch_size"),),
    }
    made["22"] = node("CFGGuider", model=["30", 0], positive=["6", 0], negative=["7", 0], cfg=4.0)
    made["7"] = node("CLIPTextEncode", text="b", clip=["11", 0])
    assert slots(made)["cfg_scale"] == (("22", "cfg"),)
    assert slots(made)["negative_prompt"] == (("7", "text"),)


def test_two_samplers_share_what_is_one() -> None:
    made = graph(
        n50=sampler(latent_image=["51", 0], denoise=0.5),
        n51=node("LatentUpscale", samples=["3", 0], width=1024, height=1024),
    )
    found = slots(made)
    assert found["prompt"] == (("6", "text"),)
    assert found["width"] == (("5", "width"),)
    assert "seed" not in found, "whose seed is meant is unclear"
    assert Workflow.parse(made).samplers == {"3", "50"}


def test_a_circle_ends() -> None:
    made = graph(n5=node("LatentBlend", samples=["5", 0]), n6=node("CLIPTextEncode", text="a"))
    made["3"]["inputs"]["positive"] = ["23", 0]
    made["23"] = node("ConditioningCombine", conditioning_1=["23", 0], conditioning_2=["6", 0])
    assert slots(made)["prompt"] == (("6", "text"),)


@pytest.mark.parametrize(
    ("source", "given", "field", "words"),
    [
        ({"nodes": [], "links": []}, None, "workflow", "API"),
        ("{", None, "workflow", "JSON"),
        ("[]", None, "workflow", "not a graph"),
        ({}, None, "workflow", "not a graph"),
        ({"3": {"inputs": {}}}, None, "workflow", "class_type"),
        ({"3": 5}, None, "workflow", "not a node"),
        (
            {name: entry for name, entry in graph().items() if name != "9"},
            None,
            "workflow",
            "saves",
        ),
        (graph(n3=node("SomebodysSampler", noise=["1", 0])), None, "workflow", "slots="),
        (
            graph(
                n3=sampler(positive=["23", 0]),
                n23=node("X", conditioning_1=["6", 0], conditioning_2=["7", 0]),
            ),
            None,
            "workflow",
            "slots=",
        ),
        (graph(), {"prompt": ("99", "text")}, "slots", "99"),
        (graph(), {"prompt": ("6", "words")}, "slots", "words"),
        (graph(), {"prompt": "6"}, "slots", "pair"),
        (graph(), {"prompt": [("6",)]}, "slots", "pair"),
        (graph(), {"color": ("6", "text")}, "slots", "color"),
    ],
)
def test_what_is_no_workflow_is_said(source: Any, given: Any, field: str, words: str) -> None:
    with pytest.raises(md.ConfigurationError, match=words) as caught:
        Workflow.parse(source, given)
    assert caught.value.details["field"] == field


@given(
    st.recursive(
        st.none() | st.integers() | st.text() | st.just(["3", 0]),
        lambda leaf: st.lists(leaf) | st.dictionaries(st.text(), leaf),
    )
)
def test_any_json_is_a_workflow_or_a_configuration_error(source: Any) -> None:
    for value in (
        source,
        {"3": source},
        {"3": {"class_type": "KSampler", "inputs": {"positive": source, "latent_image": source}}},
    ):
        with contextlib.suppress(md.ConfigurationError):
            Workflow.parse(value)


def test_the_masks_form_follows_its_node() -> None:
    made = graph(
        n3=sampler(latent_image=["12", 0]),
        n10=node("LoadImage", image="a.png"),
        n12=node(
            "VAEEncodeForInpaint", pixels=["10", 0], vae=["4", 2], mask=["10", 1], grow_mask_by=6
        ),
    )
    workflow = Workflow.parse(made)
    assert workflow.mask_in_image
    assert workflow.mask_format == "alpha"
    made["11"] = node("LoadImageMask", image="m.png", channel="red")
    made["12"]["inputs"]["mask"] = ["11", 0]
    assert (Workflow.parse(made).mask_format, Workflow.parse(made).mask_in_image) == (
        "luminance",
        False,
    )
    made["11"]["inputs"]["channel"] = "alpha"
    assert Workflow.parse(made).mask_format == "alpha"
    made["13"] = node("InvertMask", mask=["11", 0])
    made["12"]["inputs"]["mask"] = ["13", 0]
    assert "mask" not in Workflow.parse(made).slots


# Requests


def fitted(
    codec: ComfyUICodec, model: str = "current", **fields: Any
) -> tuple[imagegen.Request, list[tuple[str, str | None]]]:
    request, warnings = codec.adapt(model, imagegen.Request("a fox", **fields))
    return request, [(warning.code, warning.field) for warning in warnings]


def sent(
    codec: ComfyUICodec,
    model: str = "m.safetensors",
    uploads: UploadedInputs = NO_FILES,
    **fields: Any,
) -> dict[str, Any]:
    request, _ = codec.adapt(model, imagegen.Request("a fox", **fields))
    body = codec.encode_request(model, request, uploads, "0123456789").body
    assert isinstance(body, bytes)
    found: dict[str, Any] = json.loads(body)
    assert found["client_id"] == found["prompt_id"] == "0123456789"
    graph: dict[str, Any] = found["prompt"]
    return graph


def test_a_request_fills_the_slots() -> None:
    made = sent(
        ComfyUICodec(),
        negative_prompt="blurry",
        seed=0,
        steps=8,
        cfg_scale=0,
        sampler="dpmpp_2m",
        scheduler="karras",
        size="72x80",
        n=3,
        output_format="png",
    )
    assert made["3"]["inputs"] | {"model": 0, "positive": 0, "negative": 0, "latent_image": 0} == {
        "seed": 0,
        "steps": 8,
        "cfg": 0.0,
        "sampler_name": "dpmpp_2m",
        "scheduler": "karras",
        "denoise": 1.0,
        "model": 0,
        "positive": 0,
        "negative": 0,
        "latent_image": 0,
    }
    assert made["5"]["inputs"] == {"width": 72, "height": 80, "batch_size": 3}
    assert (made["6"]["inputs"]["text"], made["7"]["inputs"]["text"]) == ("a fox", "blurry")
    assert made["4"]["inputs"]["ckpt_name"] == "m.safetensors"
    assert made["9"]["inputs"]["filename_prefix"] == "majordomo_01234567"


def test_unset_fields_leave_the_workflows_own() -> None:
    workflow = Workflow.parse(graph())
    before = copy.deepcopy(workflow.graph)
    made = sent(ComfyUICodec(workflow), "current")
    assert workflow.graph == before
    made["6"]["inputs"]["text"], made["9"]["inputs"]["filename_prefix"] = "a", "ComfyUI"
    assert made == before


def test_without_a_size_a_checkpoint_draws_its_own() -> None:
    assert fitted(ComfyUICodec(), "sd_xl_base.safetensors")[0].size == "1024x1024"
    assert fitted(ComfyUICodec(), "v1-5-pruned.safetensors")[0].size == "512x512"
    assert fitted(ComfyUICodec(Workflow.parse(graph())))[0].size == ""


def test_sizes_are_multiples_of_8() -> None:
    request, warnings = fitted(ComfyUICodec(), size="500x333", seed=1)
    assert (request.size, warnings) == ("496x336", [("UNSUPPORTED_FIELD", "size")])


def test_what_the_workflow_cannot_take_is_a_warning() -> None:
    bare = Workflow.parse(
        graph(
            n3=sampler(positive=["6", 0], negative=["6", 0], latent_image=["5", 0]),
            n5=node("EmptyThing"),
        )
    )
    _, warnings = fitted(
        ComfyUICodec(bare),
        negative_prompt="x",
        size="64x64",
        strength=0.5,
        quality="high",
        output_format="webp",
        seed=1,
    )
    assert warnings == [
        ("UNSUPPORTED_FIELD", name)
        for name in ("quality", "output_format", "strength", "negative_prompt", "size")
    ]
    assert fitted(ComfyUICodec())[1] == [("SEED_DEFAULT", "seed")]
    unet = {name: entry for name, entry in graph().items() if name != "4"} | {
        "4": node("UNETLoader", unet_name="flux")
    }
    assert ("UNSUPPORTED_FIELD", "model") in fitted(ComfyUICodec(Workflow.parse(unet)), "other")[1]
    assert ComfyUICodec(bare).max_per_call("m", imagegen.Request("a")) == 1


def test_images_without_a_place_are_refused() -> None:
    image = md.ImagePart(png())
    for codec in (ComfyUICodec(Workflow.parse(graph())), ComfyUICodec()):
        many = (image,) * (1 if codec.custom_workflow else 2)
        with pytest.raises(md.UnsupportedError) as caught:
            codec.adapt("m", imagegen.Request("a", images=many))
        assert caught.value.field == "images"
    made = graph(
        n10=node("LoadImage", image="a.png"), n12=node("VAEEncode", pixels=["10", 0], vae=["4", 2])
    )
    made["3"]["inputs"]["latent_image"] = ["12", 0]
    with pytest.raises(md.UnsupportedError) as caught:
        ComfyUICodec(Workflow.parse(made)).adapt(
            "m", imagegen.Request("a", images=(image,), mask=image)
        )
    assert caught.value.field == "mask"


def test_files_go_to_their_loaders() -> None:
    image = md.ImagePart(png())
    uploads = UploadedInputs((UploadedFile("a (1).png", "sub"),), UploadedFile("m.png"))
    made = sent(ComfyUICodec(), uploads=uploads, images=(image,), mask=image, strength=1, n=2)
    assert made["10"]["inputs"]["image"] == "sub/a (1).png"
    assert made["13"]["inputs"] == {"image": "m.png", "channel": "red"}
    assert made["3"]["inputs"]["denoise"] == 1.0
    assert made["15"]["inputs"]["amount"] == 2
    assert set(made) == set(template(image=True, mask=True).graph)


def test_extra_is_merged_by_node_and_stays_in_the_graph() -> None:
    made = sent(
        ComfyUICodec(),
        extra={"3": {"inputs": {"eta": 1}}, "20": {"class_type": "Note", "inputs": {}}},
    )
    assert made["3"]["inputs"]["eta"] == 1
    assert made["3"]["inputs"]["steps"] == 20
    assert made["20"] == {"class_type": "Note", "inputs": {}}
    ours = {
        "20": {"class_type": "SaveImage", "inputs": {"filename_prefix": "mine", "images": ["8", 0]}}
    }
    before = copy.deepcopy(ours)
    assert sent(ComfyUICodec(), extra=ours)["20"]["inputs"]["filename_prefix"] == "mine_01234567"
    assert ours == before
    for extra in ({"front": True}, {"20": {"inputs": {}}}, {"3": {"inputs": 5}}):
        with pytest.raises(md.InvalidRequestError) as caught:
            ComfyUICodec().encode_request("m", imagegen.Request("a", extra=extra))
        assert caught.value.field == "extra"


# Answers


def entry(**fields: Any) -> bytes:
    return json.dumps(
        {
            "j": {
                "outputs": {},
                "status": {"status_str": "success", "completed": True, "messages": []},
                **fields,
            }
        }
    ).encode()


def ended(kind: str, **data: Any) -> bytes:
    messages = [["execution_start", {}], [kind, {"node_id": "3", "node_type": "KSampler", **data}]]
    return entry(status={"status_str": "error", "completed": False, "messages": messages})


def test_history_tells_how_a_job_ended() -> None:
    codec = ComfyUICodec()
    file = {"filename": "a.png", "subfolder": "s", "type": "output"}
    outputs = {
        "8": {"images": [{"filename": "p.png", "subfolder": "", "type": "temp"}]},
        "9": {"images": [file]},
        "10": {"text": ["x"]},
    }
    for status in (None, {"status_str": "success", "completed": True, "messages": []}):
        found = codec.decode_history(entry(outputs=outputs, status=status), "j", LIMITS)
        assert found is not None
        assert found.images == (StoredFile("a.png", "s", "output"),)
    only = codec.decode_history(entry(outputs={"8": outputs["8"]}), "j", LIMITS)
    assert only is not None
    assert only.images == (StoredFile("p.png", "", "temp"),)
    assert codec.decode_history(b"{}", "j", LIMITS) is None
    with pytest.raises(md.NoImageError):
        codec.decode_history(entry(), "j", LIMITS)
    with pytest.raises(md.JobCancelledError):
        codec.decode_history(ended("execution_interrupted"), "j", LIMITS)
    with pytest.raises(md.BackendError, match="CUDA") as caught:
        codec.decode_history(
            ended(
                "execution_error",
                exception_type="torch.OutOfMemoryError",
                exception_message="CUDA full\n",
            ),
            "j",
            LIMITS,
        )
    assert caught.value.code == "GPU_OOM"
    with pytest.raises(md.BackendError, match="no reason") as caught:
        codec.decode_history(
            entry(status={"status_str": "error", "messages": [["execution_error"], 5]}), "j", LIMITS
        )
    assert caught.value.code == "GENERATION_FAILED"


def test_the_place_in_the_queue_follows_the_numbers() -> None:
    codec = ComfyUICodec()
    body = json.dumps(
        {
            "queue_running": [[0, "a", {}]],
            "queue_pending": [[9, "c"], [4, "b"], "x", [None, "d"], [12, "e", {}]],
        }
    ).encode()
    assert [codec.decode_queue_position(body, job, LIMITS) for job in "abced"] == [
        *(QueueEntry(n, job) for n, job in enumerate("abce")),
        None,
    ]
    mine = json.dumps(
        {"queue_running": [], "queue_pending": [[3, "x", {}, {"client_id": "me"}, []]]}
    ).encode()
    assert codec.decode_queue_position(mine, "me", LIMITS) == QueueEntry(1, "x")
    assert codec.decode_queue_position(b"{}", "a", LIMITS) is None


def test_files_are_asked_for_percent_encoded() -> None:
    wire = ComfyUICodec().encode_view(StoredFile("a b&c#ü.png", "x/y", "output"))
    assert wire.path == "/view?filename=a%20b%26c%23%C3%BC.png&subfolder=x%2Fy&type=output"
    assert ComfyUICodec().encode_history("a/../b").path == "/history/a%2F..%2Fb"


def test_choices_come_in_two_forms() -> None:
    old = {
        "N": {
            "input": {
                "required": {"a": [["x", "y"], {}], "b": ["INT", {}]},
                "optional": {"c": [["z"]]},
            }
        }
    }
    new = {
        "N": {"input": {"required": {"a": ["COMBO", {"options": ["x", "y"]}]}, "optional": None}}
    }
    assert decode_choices(json.dumps(old).encode(), "N", LIMITS) == {"a": ("x", "y"), "c": ("z",)}
    assert decode_choices(json.dumps(new).encode(), "N", LIMITS) == {"a": ("x", "y")}
    assert decode_choices(b"{}", "N", LIMITS) == {}


# Frames


def frame(kind: str, **data: Any) -> str:
    return json.dumps({"type": kind, "data": data})


def jpeg() -> bytes:
    held = io.BytesIO()
    Image.new("RGB", (8, 8)).save(held, "JPEG")
    return held.getvalue()


def binary(job: str | None = None, data: bytes | None = None) -> bytes:
    image = jpeg() if data is None else data
    if job is None:
        return struct.pack(">II", 1, 1) + image
    about = json.dumps({"prompt_id": job}).encode()
    return struct.pack(">II", 4, len(about)) + about + image


def listening(previews: int = 0) -> ComfyEventParser:
    return ComfyEventParser("j", ["3", "4", "8"], frozenset({"3", "4"}), previews, LIMITS)


def test_steps_of_samplers_count_through() -> None:
    hear = listening()
    told = []
    for message in (
        frame("progress", value=1, max=2, prompt_id="j", node="3"),
        frame("progress", value=2, max=2, prompt_id="j", node="3"),
        frame("progress", value=7, max=9, prompt_id="j", node="8"),
        frame("progress", value=1, max=4, prompt_id="other", node="3"),
        frame(
            "progress_state",
            prompt_id="j",
            nodes={"8": {"value": 1, "max": 1}, "4": {"value": 1, "max": 2, "state": "running"}},
        ),
        frame("progress", value=-1, max=2, prompt_id="j", node="3"),
        frame("progress", value=float("inf"), max=2, prompt_id="j", node="3"),
        frame("progress", value="1", max=None, prompt_id="j", node="3"),
    ):
        told += hear.feed(message)
    assert told == [imagegen.Step(1, 2), imagegen.Step(2, 2), imagegen.Step(3, 4)]


def test_progress_without_a_name_is_that_of_the_job_that_runs() -> None:
    hear = listening()
    assert hear.feed(frame("progress", value=1, max=2)) == []
    hear.feed(frame("executing", node="3", prompt_id="j"))
    assert hear.feed(frame("progress", value=1, max=2)) == [imagegen.Step(1, 2)]
    hear.feed(frame("executing", node="3", prompt_id="other"))
    assert hear.feed(frame("progress", value=2, max=2)) == []


@pytest.mark.parametrize(
    "kind", ["execution_success", "execution_error", "execution_interrupted", "executing"]
)
def test_the_end_is_that_of_our_job(kind: str) -> None:
    hear = listening()
    hear.feed(frame(kind, prompt_id="other", node=None))
    hear.feed(frame("executing", prompt_id="j", node="3"))
    assert not hear.ended
    hear.feed(frame(kind, prompt_id="j", node=None))
    assert hear.ended


def test_previews_are_ours_and_not_more_than_asked_for() -> None:
    hear = listening(previews=2)
    shown = []
    hear.feed(frame("execution_start", prompt_id="j"))
    for step in range(1, 7):
        hear.feed(frame("progress", value=step, max=6, prompt_id="j", node="3"))
        assert hear.feed(binary("other")) == []
        assert hear.feed(binary("j", b"no image")) == []
        shown += [step for _ in hear.feed(binary("j"))]
    assert shown == [2, 4]
    hear = listening(previews=1)
    hear.feed(frame("progress", value=6, max=6, prompt_id="j", node="3"))
    hear.feed(frame("executing", node="3", prompt_id="other"))
    assert hear.feed(binary()) == []
    hear.feed(frame("executing", node="3", prompt_id="j"))
    assert len(hear.feed(binary())) == 1


@given(
    st.text()
    | st.binary()
    | st.recursive(
        st.none() | st.floats() | st.text(),
        lambda leaf: st.dictionaries(st.sampled_from(["type", "data", "prompt_id", "nodes"]), leaf),
    ).map(json.dumps)
)
def test_frames_that_nobody_understands_tell_nothing(message: str | bytes) -> None:
    hear = listening(previews=1)
    assert hear.feed(message) == []
    assert hear.feed(b"\0\0\0\4\xff\xff\xff\xff" + str(message).encode("utf-8", "replace")) == []
