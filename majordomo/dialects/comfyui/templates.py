"""Built-in workflows for a plain checkpoint (Stable Diffusion 1, 2, XL).

They generate an image from text, from an image, or repaint the masked part of an image. Flux, SD3,
Qwen and others need their own loader nodes: the user has to pass a workflow for them.
"""

from __future__ import annotations

from typing import Any

from majordomo.dialects.comfyui.workflow import Graph, NodeInput, Workflow

# The default of the other local engines.
DEFAULT_STRENGTH = 0.75
_SAMPLER = "3"
_SLOTS: dict[str, tuple[NodeInput, ...]] = {
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
    """Return the built-in workflow for a request.

    Args:
        image: Whether to start from an input image.
        mask: Whether to repaint only the masked part of the input image.
        scaled: Whether to scale the input image to the requested size.
    """
    slots = dict(_SLOTS)
    latent_node = "5"
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
        pixels_node = "10"
        graph["10"] = _node("LoadImage", image="")
        slots |= {"images": (("10", "image"),), "strength": ((_SAMPLER, "denoise"),)}
        if scaled:
            # The mask is stretched to the size of the latent, so the image must be stretched too.
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
            pixels_node = "11"
        graph["12"] = _node("VAEEncode", pixels=[pixels_node, 0], vae=["4", 2])
        latent_node = "12"
        if mask:
            graph["13"] = _node("LoadImageMask", image="", channel="red")
            graph["14"] = _node("SetLatentNoiseMask", samples=["12", 0], mask=["13", 0])
            slots["mask"] = (("13", "image"),)
            latent_node = "14"
        graph["15"] = _node("RepeatLatentBatch", samples=[latent_node, 0], amount=1)
        slots["n"] = (("15", "amount"),)
        latent_node = "15"
    graph[_SAMPLER] = _node(
        "KSampler",
        seed=0,
        steps=20,
        cfg=7.0,
        sampler_name="euler",
        scheduler="normal",
        denoise=DEFAULT_STRENGTH if image else 1.0,
        model=["4", 0],
        positive=["6", 0],
        negative=["7", 0],
        latent_image=[latent_node, 0],
    )
    graph["8"] = _node("VAEDecode", samples=[_SAMPLER, 0], vae=["4", 2])
    graph["9"] = _node("SaveImage", filename_prefix="majordomo", images=["8", 0])
    return Workflow(graph, slots)


def _node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}
