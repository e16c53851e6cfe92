"""ComfyUI workflows, slots, history, queue and websocket frames, without a server."""

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


def node(class_type: str, title: str = "", **inputs: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {"class_type": class_type, "inputs": inputs}
    return fields | ({"_meta": {"title": title}} if title else {})


def sampler(**inputs: Any) -> dict[str, Any]:
    settings = {
        "seed": 1,
        "steps": 20,
        "cfg": 8.0,
        "sampler_name": "euler",
        "scheduler": "normal",
        "denoise": 1.0,
        "model": ["4", 0],
    }
    links = {"positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}
    return node("KSampler", **(settings | links | inputs))


def graph(**nodes: Any) -> dict[str, Any]:
    """Return the editor's default workflow; the argument `n3` replaces node 3."""
    default_nodes = {
        "3": sampler(),
        "4": node("CheckpointLoaderSimple", ckpt_name="a.safetensors"),
        "5": node("EmptyLatentImage", width=512, height=512, batch_size=1),
        "6": node("CLIPTextEncode", "CLIP Text Encode (Prompt)", text="a", clip=["4", 1]),
        "7": node("CLIPTextEncode", "CLIP Text Encode (Prompt)", text="b", clip=["4", 1]),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", filename_prefix="ComfyUI", images=["8", 0]),
    }
    return default_nodes | {name.removeprefix("n"): entry for name, entry in nodes.items()}


def slots(source: Any, **explicit_slots: Any) -> dict[str, Any]:
    return dict(Workflow.parse(source, explicit_slots or None).slots)


def test_slots_are_found_by_following_the_samplers_links() -> None:
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
    "serialize",
    [
        json.dumps,
        lambda nodes: json.dumps(nodes).encode(),
        lambda nodes: {"prompt": nodes, "client_id": "x"},
    ],
)
def test_a_workflow_can_be_json_or_a_request_body(serialize: Any) -> None:
    assert slots(serialize(graph())) == slots(graph())


def test_a_workflow_can_be_any_mapping_and_have_tuples_as_links() -> None:
    nodes = graph(n3=MappingProxyType(sampler(positive=("6", 0))))
    workflow = Workflow.parse(MappingProxyType(nodes))
    assert workflow.slots["prompt"] == (("6", "text"),)
    assert workflow.graph["3"]["inputs"]["positive"] == ["6", 0]


def test_links_are_followed_through_intermediate_nodes() -> None:
    found_slots = slots(
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
    assert (found_slots["prompt"], found_slots["negative_prompt"]) == (
        (("6", "text"),),
        (("7", "text"),),
    )
    assert found_slots["seed"] == (("30", "value"),)
    assert (found_slots["images"], found_slots["mask"]) == ((("10", "image"),), (("14", "image"),))
    assert found_slots["width"] == (("11", "width"),)
    assert "n" not in found_slots


def test_all_texts_of_an_encoder_with_several_inputs_are_set() -> None:
    nodes = graph(
        n6=node(
            "CLIPTextEncodeSDXL", text_g="a", text_l="a", width=1024, height=1024, clip=["4", 1]
        )
    )
    assert slots(nodes)["prompt"] == (("6", "text_g"), ("6", "text_l"))
    assert slots(
        graph(n6=node("CLIPTextEncode", text=["40", 0]), n40=node("PrimitiveString", value="x"))
    )["prompt"] == (("40", "value"),)


def test_a_zeroed_or_shared_negative_prompt_is_not_a_slot() -> None:
    zeroed = graph(
        n3=sampler(negative=["22", 0]), n22=node("ConditioningZeroOut", conditioning=["6", 0])
    )
    assert "negative_prompt" not in slots(zeroed)
    assert "negative_prompt" not in slots(graph(n3=sampler(negative=["6", 0])))


def test_titles_override_links_and_explicit_slots_override_titles() -> None:
    nodes = graph(
        n41=node("PrimitiveStringMultiline", "Prompt", value="x"),
        n42=node("CLIPTextEncode", "negative", text="y"),
    )
    assert slots(nodes)["prompt"] == (("41", "value"),)
    assert slots(nodes)["negative_prompt"] == (("42", "text"),)
    assert slots(nodes, prompt=("6", "text"))["prompt"] == (("6", "text"),)
    assert slots(nodes, prompt=[("6", "text"), ["7", "text"]], image=("4", "ckpt_name"))[
        "prompt"
    ] == (("6", "text"), ("7", "text"))


def test_slots_of_a_custom_sampler_are_in_separate_nodes() -> None:
    nodes = {
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
    assert slots(nodes) == {
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
    nodes["22"] = node("CFGGuider", model=["30", 0], positive=["6", 0], negative=["7", 0], cfg=4.0)
    nodes["7"] = node("CLIPTextEncode", text="b", clip=["11", 0])
    assert slots(nodes)["cfg_scale"] == (("22", "cfg"),)
    assert slots(nodes)["negative_prompt"] == (("7", "text"),)


def test_two_samplers_have_only_their_shared_slots() -> None:
    nodes = graph(
        n50=sampler(latent_image=["51", 0], denoise=0.5),
        n51=node("LatentUpscale", samples=["3", 0], width=1024, height=1024),
    )
    found_slots = slots(nodes)
    assert found_slots["prompt"] == (("6", "text"),)
    assert found_slots["width"] == (("5", "width"),)
    assert "seed" not in found_slots, "each sampler has its own seed"
    assert Workflow.parse(nodes).samplers == {"3", "50"}


def test_circular_links_are_followed_once() -> None:
    nodes = graph(n5=node("LatentBlend", samples=["5", 0]), n6=node("CLIPTextEncode", text="a"))
    nodes["3"]["inputs"]["positive"] = ["23", 0]
    nodes["23"] = node("ConditioningCombine", conditioning_1=["23", 0], conditioning_2=["6", 0])
    assert slots(nodes)["prompt"] == (("6", "text"),)


@pytest.mark.parametrize(
    ("source", "explicit_slots", "field", "message"),
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
        (graph(n3=node("ThirdPartySampler", noise=["1", 0])), None, "workflow", "slots="),
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
def test_an_invalid_workflow_raises_configuration_error(
    source: Any, explicit_slots: Any, field: str, message: str
) -> None:
    with pytest.raises(md.ConfigurationError, match=message) as caught:
        Workflow.parse(source, explicit_slots)
    assert caught.value.details["field"] == field


@given(
    st.recursive(
        st.none() | st.integers() | st.text() | st.just(["3", 0]),
        lambda leaf: st.lists(leaf) | st.dictionaries(st.text(), leaf),
    )
)
def test_any_json_is_a_workflow_or_raises_configuration_error(source: Any) -> None:
    for value in (
        source,
        {"3": source},
        {"3": {"class_type": "KSampler", "inputs": {"positive": source, "latent_image": source}}},
    ):
        with contextlib.suppress(md.ConfigurationError):
            Workflow.parse(value)


def test_the_mask_format_depends_on_its_node() -> None:
    nodes = graph(
        n3=sampler(latent_image=["12", 0]),
        n10=node("LoadImage", image="a.png"),
        n12=node(
            "VAEEncodeForInpaint", pixels=["10", 0], vae=["4", 2], mask=["10", 1], grow_mask_by=6
        ),
    )
    workflow = Workflow.parse(nodes)
    assert workflow.mask_in_image
    assert workflow.mask_format == "alpha"
    nodes["11"] = node("LoadImageMask", image="m.png", channel="red")
    nodes["12"]["inputs"]["mask"] = ["11", 0]
    assert (Workflow.parse(nodes).mask_format, Workflow.parse(nodes).mask_in_image) == (
        "luminance",
        False,
    )
    nodes["11"]["inputs"]["channel"] = "alpha"
    assert Workflow.parse(nodes).mask_format == "alpha"
    nodes["13"] = node("InvertMask", mask=["11", 0])
    nodes["12"]["inputs"]["mask"] = ["13", 0]
    assert "mask" not in Workflow.parse(nodes).slots


# Requests


def adapted(
    codec: ComfyUICodec, model: str = "current", **fields: Any
) -> tuple[imagegen.Request, list[tuple[str, str | None]]]:
    request, warnings = codec.adapt(model, imagegen.Request("a fox", **fields))
    return request, [(warning.code, warning.field) for warning in warnings]


def encoded_graph(
    codec: ComfyUICodec,
    model: str = "m.safetensors",
    uploads: UploadedInputs = NO_FILES,
    **fields: Any,
) -> dict[str, Any]:
    request, _ = codec.adapt(model, imagegen.Request("a fox", **fields))
    body = codec.encode_request(model, request, uploads, "0123456789").body
    assert isinstance(body, bytes)
    document: dict[str, Any] = json.loads(body)
    assert document["client_id"] == document["prompt_id"] == "0123456789"
    graph: dict[str, Any] = document["prompt"]
    return graph


def test_a_request_fills_the_slots() -> None:
    nodes = encoded_graph(
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
    assert nodes["3"]["inputs"] | {"model": 0, "positive": 0, "negative": 0, "latent_image": 0} == {
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
    assert nodes["5"]["inputs"] == {"width": 72, "height": 80, "batch_size": 3}
    assert (nodes["6"]["inputs"]["text"], nodes["7"]["inputs"]["text"]) == ("a fox", "blurry")
    assert nodes["4"]["inputs"]["ckpt_name"] == "m.safetensors"
    assert nodes["9"]["inputs"]["filename_prefix"] == "majordomo_01234567"


def test_unset_fields_keep_the_workflows_values() -> None:
    workflow = Workflow.parse(graph())
    before = copy.deepcopy(workflow.graph)
    nodes = encoded_graph(ComfyUICodec(workflow), "current")
    assert workflow.graph == before
    nodes["6"]["inputs"]["text"], nodes["9"]["inputs"]["filename_prefix"] = "a", "ComfyUI"
    assert nodes == before


def test_a_built_in_workflow_uses_the_native_size_of_the_checkpoint() -> None:
    assert adapted(ComfyUICodec(), "sd_xl_base.safetensors")[0].size == "1024x1024"
    assert adapted(ComfyUICodec(), "v1-5-pruned.safetensors")[0].size == "512x512"
    assert adapted(ComfyUICodec(Workflow.parse(graph())))[0].size == ""


def test_sizes_are_multiples_of_8() -> None:
    request, warnings = adapted(ComfyUICodec(), size="500x333", seed=1)
    assert (request.size, warnings) == ("496x336", [("UNSUPPORTED_FIELD", "size")])


def test_fields_without_a_slot_give_a_warning() -> None:
    minimal = Workflow.parse(
        graph(
            n3=sampler(positive=["6", 0], negative=["6", 0], latent_image=["5", 0]),
            n5=node("EmptyThing"),
        )
    )
    _, warnings = adapted(
        ComfyUICodec(minimal),
        negative_prompt="x",
        size="64x64",
        strength=0.5,
        quality="high",
        output_format="webp",
        seed=1,
    )
    assert warnings == [
        ("UNSUPPORTED_FIELD", name)
        for name in ("strength", "output_format", "quality", "negative_prompt", "size")
    ]
    assert adapted(ComfyUICodec())[1] == [("SEED_DEFAULT", "seed")]
    unet = {name: entry for name, entry in graph().items() if name != "4"} | {
        "4": node("UNETLoader", unet_name="flux")
    }
    assert ("UNSUPPORTED_FIELD", "model") in adapted(ComfyUICodec(Workflow.parse(unet)), "other")[1]
    assert ComfyUICodec(minimal).max_per_call("m", imagegen.Request("a")) == 1


def test_images_without_a_slot_are_refused() -> None:
    image = md.ImagePart(png())
    for codec in (ComfyUICodec(Workflow.parse(graph())), ComfyUICodec()):
        images = (image,) * (1 if codec.custom_workflow else 2)
        with pytest.raises(md.UnsupportedError) as caught:
            codec.adapt("m", imagegen.Request("a", images=images))
        assert caught.value.field == "images"
    nodes = graph(
        n10=node("LoadImage", image="a.png"), n12=node("VAEEncode", pixels=["10", 0], vae=["4", 2])
    )
    nodes["3"]["inputs"]["latent_image"] = ["12", 0]
    with pytest.raises(md.UnsupportedError) as caught:
        ComfyUICodec(Workflow.parse(nodes)).adapt(
            "m", imagegen.Request("a", images=(image,), mask=image)
        )
    assert caught.value.field == "mask"


def test_uploaded_files_are_set_on_their_loader_nodes() -> None:
    image = md.ImagePart(png())
    uploads = UploadedInputs((UploadedFile("a (1).png", "sub"),), UploadedFile("m.png"))
    nodes = encoded_graph(
        ComfyUICodec(), uploads=uploads, images=(image,), mask=image, strength=1, n=2
    )
    assert nodes["10"]["inputs"]["image"] == "sub/a (1).png"
    assert nodes["13"]["inputs"] == {"image": "m.png", "channel": "red"}
    assert nodes["3"]["inputs"]["denoise"] == 1.0
    assert nodes["15"]["inputs"]["amount"] == 2
    assert set(nodes) == set(template(image=True, mask=True).graph)


def test_extra_is_merged_by_node_and_must_leave_a_valid_graph() -> None:
    nodes = encoded_graph(
        ComfyUICodec(),
        extra={"3": {"inputs": {"eta": 1}}, "20": {"class_type": "Note", "inputs": {}}},
    )
    assert nodes["3"]["inputs"]["eta"] == 1
    assert nodes["3"]["inputs"]["steps"] == 20
    assert nodes["20"] == {"class_type": "Note", "inputs": {}}
    extra_node = {
        "20": {"class_type": "SaveImage", "inputs": {"filename_prefix": "mine", "images": ["8", 0]}}
    }
    before = copy.deepcopy(extra_node)
    assert (
        encoded_graph(ComfyUICodec(), extra=extra_node)["20"]["inputs"]["filename_prefix"]
        == "mine_01234567"
    )
    assert extra_node == before
    for extra in ({"front": True}, {"20": {"inputs": {}}}, {"3": {"inputs": 5}}):
        with pytest.raises(md.InvalidRequestError) as caught:
            ComfyUICodec().encode_request("m", imagegen.Request("a", extra=extra))
        assert caught.value.field == "extra"


# Replies


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


def failed_entry(kind: str, **data: Any) -> bytes:
    messages = [["execution_start", {}], [kind, {"node_id": "3", "node_type": "KSampler", **data}]]
    return entry(status={"status_str": "error", "completed": False, "messages": messages})


def test_history_gives_the_outcome_of_a_job() -> None:
    codec = ComfyUICodec()
    output_file = {"filename": "a.png", "subfolder": "s", "type": "output"}
    outputs = {
        "8": {"images": [{"filename": "p.png", "subfolder": "", "type": "temp"}]},
        "9": {"images": [output_file]},
        "10": {"text": ["x"]},
    }
    for status in (None, {"status_str": "success", "completed": True, "messages": []}):
        finished = codec.decode_history(entry(outputs=outputs, status=status), "j", LIMITS)
        assert finished is not None
        assert finished.images == (StoredFile("a.png", "s", "output"),)
    preview_only = codec.decode_history(entry(outputs={"8": outputs["8"]}), "j", LIMITS)
    assert preview_only is not None
    assert preview_only.images == (StoredFile("p.png", "", "temp"),)
    assert codec.decode_history(b"{}", "j", LIMITS) is None
    with pytest.raises(md.NoImageError):
        codec.decode_history(entry(), "j", LIMITS)
    with pytest.raises(md.JobCancelledError):
        codec.decode_history(failed_entry("execution_interrupted"), "j", LIMITS)
    with pytest.raises(md.BackendError, match="CUDA") as caught:
        codec.decode_history(
            failed_entry(
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


def test_the_queue_position_follows_the_numbers() -> None:
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
    client_queue = json.dumps(
        {"queue_running": [], "queue_pending": [[3, "x", {}, {"client_id": "me"}, []]]}
    ).encode()
    assert codec.decode_queue_position(client_queue, "me", LIMITS) == QueueEntry(1, "x")
    assert codec.decode_queue_position(b"{}", "a", LIMITS) is None


def test_file_names_and_job_ids_are_percent_encoded() -> None:
    http_request = ComfyUICodec().encode_view(StoredFile("a b&c#ü.png", "x/y", "output"))
    assert http_request.path == "/view?filename=a%20b%26c%23%C3%BC.png&subfolder=x%2Fy&type=output"
    assert ComfyUICodec().encode_history("a/../b").path == "/history/a%2F..%2Fb"


def test_choices_are_decoded_from_old_and_new_servers() -> None:
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
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    return buffer.getvalue()


def preview_frame(job: str | None = None, data: bytes | None = None) -> bytes:
    image = jpeg() if data is None else data
    if job is None:
        return struct.pack(">II", 1, 1) + image
    metadata = json.dumps({"prompt_id": job}).encode()
    return struct.pack(">II", 4, len(metadata)) + metadata + image


def event_parser(previews: int = 0) -> ComfyEventParser:
    return ComfyEventParser("j", ["3", "4", "8"], frozenset({"3", "4"}), previews, LIMITS)


def test_steps_are_counted_through_all_samplers() -> None:
    parser = event_parser()
    events = []
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
        events += parser.feed(message)
    assert events == [imagegen.Step(1, 2), imagegen.Step(2, 2), imagegen.Step(3, 4)]


def test_progress_without_a_job_id_belongs_to_the_running_job() -> None:
    parser = event_parser()
    assert parser.feed(frame("progress", value=1, max=2)) == []
    parser.feed(frame("executing", node="3", prompt_id="j"))
    assert parser.feed(frame("progress", value=1, max=2)) == [imagegen.Step(1, 2)]
    parser.feed(frame("executing", node="3", prompt_id="other"))
    assert parser.feed(frame("progress", value=2, max=2)) == []


@pytest.mark.parametrize(
    "kind", ["execution_success", "execution_error", "execution_interrupted", "executing"]
)
def test_only_messages_about_our_job_end_it(kind: str) -> None:
    parser = event_parser()
    parser.feed(frame(kind, prompt_id="other", node=None))
    parser.feed(frame("executing", prompt_id="j", node="3"))
    assert not parser.ended
    parser.feed(frame(kind, prompt_id="j", node=None))
    assert parser.ended


def test_previews_are_of_our_job_and_limited_to_the_requested_number() -> None:
    parser = event_parser(previews=2)
    preview_steps = []
    parser.feed(frame("execution_start", prompt_id="j"))
    for step in range(1, 7):
        parser.feed(frame("progress", value=step, max=6, prompt_id="j", node="3"))
        assert parser.feed(preview_frame("other")) == []
        assert parser.feed(preview_frame("j", b"no image")) == []
        preview_steps += [step for _ in parser.feed(preview_frame("j"))]
    assert preview_steps == [2, 4]
    parser = event_parser(previews=1)
    parser.feed(frame("progress", value=6, max=6, prompt_id="j", node="3"))
    parser.feed(frame("executing", node="3", prompt_id="other"))
    assert parser.feed(preview_frame()) == []
    parser.feed(frame("executing", node="3", prompt_id="j"))
    assert len(parser.feed(preview_frame())) == 1


@given(
    st.text()
    | st.binary()
    | st.recursive(
        st.none() | st.floats() | st.text(),
        lambda leaf: st.dictionaries(st.sampled_from(["type", "data", "prompt_id", "nodes"]), leaf),
    ).map(json.dumps)
)
def test_invalid_frames_produce_no_events(message: str | bytes) -> None:
    parser = event_parser(previews=1)
    assert parser.feed(message) == []
    assert parser.feed(b"\0\0\0\4\xff\xff\xff\xff" + str(message).encode("utf-8", "replace")) == []
