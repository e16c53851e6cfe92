"""Built-in workflows for a plain checkpoint (Stable Diffusion 1, 2, XL): from text, from an image, and repainting a part of one.

Flux, SD3, Qwen and others need loaders of their own: for those a workflow is given, not guessed.
"""

from __future__ import annotations

from typing import Any

from majordomo.dialects.comfyui.workflow import Graph, Slot, Workflow

STRENGTH = 0.75  # what the other local engines take when nothing is said
_SAMPLER = "3"
_SLOTS: dict[str, tuple[Slot, ...]] = {
    "prompt": (("6", "text"),),
    "negative_prompt": (("7", "text"),),
    "seed": ((_SAMPLER, "seed"),),
    "steps": ((_SAMPLER, "steps"),),
    "cfg_scale": ((_SAMPLER, "cfg"),),
    "sampler": ((_SAMPLER, "sampler_name"),),
    "scheduler": ((_SAMPLER, "scheduler"),),
    "model": (("4", "ckpt_name"),),
}


def template(*, image: bool = False, mask: bool = False, scaled: bool = False) -> Workflow:
    """`scaled`: the image it begins with is brought to another size."""
    slots = dict(_SLOTS)
    latent = "5"
    graph: Graph = {
        "4": _node("CheckpointLoaderSimple", ckpt_name=""),
        "6": _node("CLIPTextEncode", text="", clip=["4", 1]),
        "7": _node("CLIPTextEncode", text="", clip=["4", 1]),
    }
    if not image:
        graph["5"] = _node("EmptyLatentImage", width=512, height=512, batch_size=1)
        slots |= {
            "width": (("5", "width"),),
            "height": (("5", "height"),),
            "n": (("5", "batch_size"),),
        }
    else:
        pixels = "10"
        graph["10"] = _node("LoadImage", image="")
        slots |= {"images": (("10", "image"),), "strength": ((_SAMPLER, "denoise"),)}
        if scaled:
            # A mask is stretched to the latent's size, so the image below it must be as well
            crop = "disabled" if mask else "center"
            graph["11"] = _node(
                "ImageScale",
                image=["10", 0],
                upscale_method="lanczos",
                width=512,
                height=512,
                crop=crop,
            )
            slots |= {"width": (("11", "width"),), "height": (("11", "height"),)}
            pixels = "11"
        graph["12"] = _node("VAEEncode", pixels=[pixels, 0], vae=["4", 2])
        latent = "12"
        if mask:
            graph["13"] = _node("LoadImageMask", image="", channel="red")
            graph["14"] = _node("SetLatentNoiseMask", samples=["12", 0], mask=["13", 0])
            slots["mask"] = (("13", "image"),)
            latent = "14"
        graph["15"] = _node("RepeatLatentBatch", samples=[latent, 0], amount=1)
        slots["n"] = (("15", "amount"),)
        latent = "15"
    graph[_SAMPLER] = _node(
        "KSampler",
        seed=0,
        steps=20,
        cfg=7.0,
        sampler_name="euler",
        scheduler="normal",
        denoise=STRENGTH if image else 1.0,
        model=["4", 0],
        positive=["6", 0],
        negative=["7", 0],
        latent_image=[latent, 0],
    )
    graph["8"] = _node("VAEDecode", samples=[_SAMPLER, 0], vae=["4", 2])
    graph["9"] = _node("SaveImage", filename_prefix="majordomo", images=["8", 0])
    return Workflow(graph, slots)


def _node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}
