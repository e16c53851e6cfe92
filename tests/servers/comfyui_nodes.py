"""The nodes of the ComfyUI test server: their inputs, validation of graphs, and execution.

An image has one color, the hash of everything that its KSampler got. Where a mask is black the
initial image remains.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.servers.hashed_images import (
    Color,
    decode_image,
    fingerprint,
    hash_color,
    repaint_masked,
    solid_image,
)

_SAMPLER_NAMES = (
    "euler euler_cfg_pp euler_ancestral euler_ancestral_cfg_pp heun dpm_2 dpm_2_ancestral lms "
    "dpmpp_2s_ancestral dpmpp_sde dpmpp_2m dpmpp_2m_sde dpmpp_2m_sde_gpu dpmpp_3m_sde ddpm lcm "
    "ipndm ipndm_v deis res_multistep gradient_estimation er_sde ddim uni_pc uni_pc_bh2"
)
_SCHEDULER_NAMES = (
    "simple sgm_uniform karras exponential ddim_uniform beta normal linear_quadratic kl_optimal"
)
SAMPLERS, SCHEDULERS = _SAMPLER_NAMES.split(), _SCHEDULER_NAMES.split()
CROPS, METHODS = ["disabled", "center"], ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]
MAX_SEED = 2**64 - 1

# ("INT", default, min, max), ("COMBO", list or name of a folder), ("STRING",), or (type of a link,)
Input = tuple[Any, ...]


@dataclass(frozen=True)
class Node:
    """A node class: its inputs, the types of its outputs, and whether it is an output node."""

    inputs: dict[str, Input]
    outputs: tuple[str, ...]
    is_output: bool = False


def _side(default: int) -> Input:
    return ("INT", default, 16, 16384)


NODES: dict[str, Node] = {
    "CheckpointLoaderSimple": Node(
        {"ckpt_name": ("COMBO", "checkpoints")}, ("MODEL", "CLIP", "VAE")
    ),
    "EmptyLatentImage": Node(
        {"width": _side(512), "height": _side(512), "batch_size": ("INT", 1, 1, 4096)}, ("LATENT",)
    ),
    "CLIPTextEncode": Node({"text": ("STRING",), "clip": ("CLIP",)}, ("CONDITIONING",)),
    "KSampler": Node(
        {
            "model": ("MODEL",),
            "seed": ("INT", 0, 0, MAX_SEED),
            "steps": ("INT", 20, 1, 10000),
            "cfg": ("FLOAT", 8.0, 0.0, 100.0),
            "sampler_name": ("COMBO", SAMPLERS),
            "scheduler": ("COMBO", SCHEDULERS),
            "positive": ("CONDITIONING",),
            "negative": ("CONDITIONING",),
            "latent_image": ("LATENT",),
            "denoise": ("FLOAT", 1.0, 0.0, 1.0),
        },
        ("LATENT",),
    ),
    "VAEDecode": Node({"samples": ("LATENT",), "vae": ("VAE",)}, ("IMAGE",)),
    "VAEEncode": Node({"pixels": ("IMAGE",), "vae": ("VAE",)}, ("LATENT",)),
    "VAEEncodeForInpaint": Node(
        {
            "pixels": ("IMAGE",),
            "vae": ("VAE",),
            "mask": ("MASK",),
            "grow_mask_by": ("INT", 6, 0, 64),
        },
        ("LATENT",),
    ),
    "SetLatentNoiseMask": Node({"samples": ("LATENT",), "mask": ("MASK",)}, ("LATENT",)),
    "RepeatLatentBatch": Node({"samples": ("LATENT",), "amount": ("INT", 1, 1, 64)}, ("LATENT",)),
    "ImageScale": Node(
        {
            "image": ("IMAGE",),
            "upscale_method": ("COMBO", METHODS),
            "width": ("INT", 512, 0, 16384),
            "height": ("INT", 512, 0, 16384),
            "crop": ("COMBO", CROPS),
        },
        ("IMAGE",),
    ),
    "LoadImage": Node({"image": ("COMBO", "input")}, ("IMAGE", "MASK")),
    "LoadImageMask": Node(
        {"image": ("COMBO", "input"), "channel": ("COMBO", ["alpha", "red", "green", "blue"])},
        ("MASK",),
    ),
    "SaveImage": Node({"images": ("IMAGE",), "filename_prefix": ("STRING",)}, (), True),
    "PreviewImage": Node({"images": ("IMAGE",)}, (), True),
}


def describe_node(name: str, folders: Mapping[str, list[str]], combo: bool) -> dict[str, Any]:
    """Return a node as `/object_info` describes it.

    `combo` selects the newer form of a list of choices.
    """
    node = NODES[name]
    required: dict[str, Any] = {}
    for input_name, (kind, *rest) in node.inputs.items():
        if kind == "COMBO":
            choices = folders[rest[0]] if isinstance(rest[0], str) else rest[0]
            required[input_name] = (
                ["COMBO", {"options": list(choices)}] if combo else [list(choices)]
            )
        elif kind in ("INT", "FLOAT"):
            required[input_name] = [kind, dict(zip(("default", "min", "max"), rest, strict=True))]
        else:
            required[input_name] = [kind]
    return {
        "input": {"required": required},
        "input_order": {"required": list(required)},
        "output": list(node.outputs),
        "output_is_list": [False] * len(node.outputs),
        "output_name": list(node.outputs),
        "name": name,
        "display_name": name,
        "description": "",
        "category": "test",
        "output_node": node.is_output,
    }


def _fault(kind: str, message: str, details: str, name: str, **extra: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "message": message,
        "details": details,
        "extra_info": {"input_name": name, **extra},
    }


def _input_faults(
    graph: Mapping[str, Any], node: Mapping[str, Any], folders: Mapping[str, list[str]]
) -> Iterator[dict[str, Any]]:
    values = node["inputs"]
    for name, (kind, *rest) in NODES[node["class_type"]].inputs.items():
        if name not in values:
            yield _fault("required_input_missing", "Required input is missing", name, name)
            continue
        value = values[name]
        if isinstance(value, list):
            if len(value) != 2:
                message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
                yield _fault("bad_linked_input", message, name, name, received_value=value)
                continue
            if value[0] not in graph:
                yield _fault(
                    "exception_during_inner_validation",
                    "Exception when validating inner node",
                    f"'{value[0]}'",
                    name,
                )
                continue
            outputs = NODES[graph[value[0]]["class_type"]].outputs
            received = outputs[value[1]] if value[1] < len(outputs) else "?"
            expected = kind if kind not in ("COMBO",) else "COMBO"
            if received != expected:
                message = "Return type mismatch between linked nodes"
                yield _fault(
                    "return_type_mismatch",
                    message,
                    f"{name}, received_type({received}) mismatch input_type({expected})",
                    name,
                )
        elif kind in ("INT", "FLOAT"):
            try:
                number = int(value) if kind == "INT" else float(value)
            except (TypeError, ValueError) as error:
                message = f"Failed to convert an input value to a {kind} value"
                yield _fault(
                    "invalid_input_type",
                    message,
                    f"{name}, {value}, {error}",
                    name,
                    received_value=value,
                )
                continue
            _, low, high = rest
            if number < low:
                yield _fault(
                    "value_smaller_than_min",
                    f"Value {number} smaller than min of {low}",
                    name,
                    name,
                    received_value=value,
                )
            if number > high:
                yield _fault(
                    "value_bigger_than_max",
                    f"Value {number} bigger than max of {high}",
                    name,
                    name,
                    received_value=value,
                )
        elif kind == "COMBO" and rest[0] == "input":
            if value not in folders["input"]:
                message = "Custom validation failed for node"
                yield _fault(
                    "custom_validation_failed",
                    message,
                    f"{name} - Invalid image file: {value}",
                    name,
                    received_value=value,
                )
        elif kind == "COMBO":
            choices = folders[rest[0]] if isinstance(rest[0], str) else rest[0]
            if value not in choices:
                yield _fault(
                    "value_not_in_list",
                    "Value not in list",
                    f"{name}: '{value}' not in {choices}",
                    name,
                    received_value=value,
                )
        elif kind not in ("STRING",):
            yield _fault(
                "bad_linked_input", f"Input {name} needs a link", name, name, received_value=value
            )


def linked_nodes(node: Mapping[str, Any]) -> list[str]:
    """Return the ids of the nodes that this node takes its inputs from."""
    return [value[0] for value in node["inputs"].values() if isinstance(value, list)]


def ancestors(graph: Mapping[str, Any], node: str) -> set[str]:
    """Return the ids of the node and of all nodes that it depends on."""
    found: set[str] = set()
    todo = [node]
    while todo:
        current = todo.pop()
        if current not in found and current in graph:
            found.add(current)
            todo += linked_nodes(graph[current])
    return found


@dataclass
class Verdict:
    """The result of validation: an error, or None and the output nodes to execute."""

    error: dict[str, Any] | None = None
    outputs: list[str] = field(default_factory=list)
    node_errors: Any = field(default_factory=dict)


def validate_graph(
    graph: Mapping[str, Any], folders: Mapping[str, list[str]], old: bool
) -> Verdict:
    """Validate a graph as the server does before it queues it."""
    for number, node in graph.items():
        details = f"Node ID '#{number}'"
        if "class_type" not in node:
            message = "Cannot execute because a node is missing the class_type property."
            kind = "invalid_prompt" if old else "missing_node_type"
            return Verdict(
                {"type": kind, "message": message, "details": details, "extra_info": {}},
                [],
                [] if old else {},
            )
        if node["class_type"] not in NODES:
            message = f"Cannot execute because node {node['class_type']} does not exist."
            kind = "invalid_prompt" if old else "missing_node_type"
            return Verdict(
                {"type": kind, "message": message, "details": details, "extra_info": {}},
                [],
                [] if old else {},
            )
    outputs = [number for number, node in graph.items() if NODES[node["class_type"]].is_output]
    if not outputs:
        error = {
            "type": "prompt_no_outputs",
            "message": "Prompt has no outputs",
            "details": "",
            "extra_info": {},
        }
        return Verdict(error, [], [] if old else {})
    faults = {number: list(_input_faults(graph, node, folders)) for number, node in graph.items()}
    valid_outputs = [
        output
        for output in outputs
        if not any(faults[number] for number in ancestors(graph, output))
    ]
    node_errors = {
        number: {
            "errors": errors,
            "dependent_outputs": [
                output for output in outputs if number in ancestors(graph, output)
            ],
            "class_type": graph[number]["class_type"],
        }
        for number, errors in faults.items()
        if errors
    }
    if valid_outputs:
        return Verdict(None, valid_outputs, node_errors)
    lines = [
        f"* {entry['class_type']} {number}:\n"
        + "\n".join(f"  - {fault['message']}: {fault['details']}" for fault in entry["errors"])
        for number, entry in node_errors.items()
    ]
    details = "\n".join(lines)
    message = "Prompt outputs failed validation"
    error = {
        "type": "prompt_outputs_failed_validation",
        "message": message,
        "details": details,
        "extra_info": {},
    }
    return Verdict(error, [], node_errors)


class NodeError(Exception):
    """A node fails with an exception of this class name, raised by torch or by the node itself."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass
class Latent:
    """A latent: its images once sampled, before that its size and the initial image."""

    size: tuple[int, int]
    batch: int = 1
    init: Image.Image | None = None
    mask: Image.Image | None = None
    images: list[Image.Image] = field(default_factory=list)


# The settings that decide the color, with the values of a minimal graph.
COLOR_DEFAULTS: dict[str, Any] = {
    "ckpt_name": "model.safetensors",
    "positive": "",
    "negative": "",
    "seed": 0,
    "steps": 20,
    "cfg": 7.0,
    "sampler_name": "euler",
    "scheduler": "normal",
    "denoise": 1.0,
    "width": 512,
    "height": 512,
    "init": None,
    "index": 0,
}


def color(settings: Mapping[str, Any], index: int = 0) -> Color:
    """Return the color of image `index`.

    A missing setting has its value in COLOR_DEFAULTS; other keys are ignored. `init` is a
    `fingerprint()`.
    """
    facts = {name: settings.get(name, default) for name, default in COLOR_DEFAULTS.items()} | {
        "index": index
    }
    return hash_color(facts | {"cfg": float(facts["cfg"]), "denoise": float(facts["denoise"])})


def png_with(image: Image.Image, texts: Mapping[str, Any]) -> bytes:
    """Return a PNG with these text chunks, as JSON."""
    info = PngInfo()
    for name, value in texts.items():
        info.add_text(name, json.dumps(value))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


class Run:
    """One execution of a graph.

    `step(node, settings, done, total)` is called for each step of a sampler; `done` is 0 before
    the first. `save` stores an image file, and `begin` is called for each node that is executed.
    """

    def __init__(
        self,
        graph: Mapping[str, Any],
        inputs: Mapping[str, bytes],
        step: Callable[[str, dict[str, Any], int, int], None],
        save: Callable[[bytes, str, bool], dict[str, str]],
        begin: Callable[[str], None],
    ) -> None:
        self._graph = graph
        self._inputs = inputs
        self._step = step
        self._save = save
        self._begin = begin
        self._results: dict[str, tuple[Any, ...]] = {}

    def run(self, node: str) -> tuple[Any, ...]:
        """Execute the node, if that has not been done yet, and return its outputs."""
        if node not in self._results:
            entry = self._graph[node]
            arguments = {
                name: self.run(v[0])[v[1]] if isinstance(v, list) else v
                for name, v in entry["inputs"].items()
            }
            self._begin(node)
            self._results[node] = getattr(self, f"_{entry['class_type']}")(node, **arguments)
        return self._results[node]

    def _CheckpointLoaderSimple(self, node: str, ckpt_name: str) -> tuple[Any, ...]:
        return ckpt_name, ckpt_name, ckpt_name

    def _EmptyLatentImage(
        self, node: str, width: int, height: int, batch_size: int
    ) -> tuple[Any, ...]:
        return (Latent((width // 8 * 8, height // 8 * 8), batch_size),)

    def _CLIPTextEncode(self, node: str, text: str, clip: str) -> tuple[Any, ...]:
        return (text,)

    def _VAEEncode(self, node: str, pixels: list[Image.Image], vae: str) -> tuple[Any, ...]:
        width, height = (side // 8 * 8 for side in pixels[0].size)
        left, top = (pixels[0].width - width) // 2, (pixels[0].height - height) // 2
        return (
            Latent((width, height), 1, pixels[0].crop((left, top, left + width, top + height))),
        )

    def _VAEEncodeForInpaint(
        self, node: str, pixels: list[Image.Image], vae: str, mask: Image.Image, grow_mask_by: int
    ) -> tuple[Any, ...]:
        (latent,) = self._VAEEncode(node, pixels, vae)
        return (Latent(latent.size, 1, latent.init, mask),)

    def _SetLatentNoiseMask(self, node: str, samples: Latent, mask: Image.Image) -> tuple[Any, ...]:
        return (Latent(samples.size, samples.batch, samples.init, mask),)

    def _RepeatLatentBatch(self, node: str, samples: Latent, amount: int) -> tuple[Any, ...]:
        return (Latent(samples.size, samples.batch * amount, samples.init, samples.mask),)

    def _ImageScale(
        self, node: str, image: list[Image.Image], width: int, height: int, **options: Any
    ) -> tuple[Any, ...]:
        return ([one.resize((width, height), Image.Resampling.NEAREST) for one in image],)

    def _KSampler(self, node: str, latent_image: Latent, **arguments: Any) -> tuple[Any, ...]:
        width, height = latent_image.size
        settings = {name: value for name, value in arguments.items() if name != "model"} | {
            "ckpt_name": arguments["model"],
            "width": width,
            "height": height,
            "init": fingerprint(latent_image.init) if latent_image.init else None,
            "batch": latent_image.batch,
            "masked": latent_image.mask is not None,
        }
        for done in range(arguments["steps"] + 1):
            self._step(node, settings, done, arguments["steps"])
        images = [
            solid_image(color(settings, index), latent_image.size)
            for index in range(latent_image.batch)
        ]
        if latent_image.mask is not None and latent_image.init is not None:
            images = [
                repaint_masked(latent_image.init, image, latent_image.mask) for image in images
            ]
        return (Latent(latent_image.size, latent_image.batch, None, None, images),)

    def _VAEDecode(self, node: str, samples: Latent, vae: str) -> tuple[Any, ...]:
        return (samples.images,)

    def _open_image(self, name: str) -> Image.Image:
        image = decode_image(self._inputs[name])
        if image is None:
            raise NodeError("PIL.UnidentifiedImageError", f"cannot identify image file '{name}'")
        return image

    def _LoadImage(self, node: str, image: str) -> tuple[Any, ...]:
        opened = self._open_image(image)
        alpha = (
            opened.getchannel("A") if "A" in opened.getbands() else Image.new("L", (64, 64), 255)
        )
        # Transparent pixels are white in the mask, so they are repainted.
        return [opened.convert("RGB")], alpha.point(lambda level: 255 - level)

    def _LoadImageMask(self, node: str, image: str, channel: str) -> tuple[Any, ...]:
        opened = self._open_image(image).convert("RGBA")
        mask = opened.getchannel(channel[0].upper())
        return (mask.point(lambda level: 255 - level) if channel == "alpha" else mask,)

    def _SaveImage(
        self, node: str, images: list[Image.Image], filename_prefix: str
    ) -> tuple[Any, ...]:
        return (
            [
                self._save(png_with(image, {"prompt": self._graph}), filename_prefix, False)
                for image in images
            ],
        )

    def _PreviewImage(self, node: str, images: list[Image.Image]) -> tuple[Any, ...]:
        return ([self._save(png_with(image, {}), "ComfyUI_temp_abcde", True) for image in images],)
