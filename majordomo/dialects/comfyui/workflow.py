"""Workflows of ComfyUI: a graph in API format, and which inputs of its nodes a request sets.

Facts: ComfyUI `execution.py` and `nodes.py` of 2024 to 2026. A graph maps node ids to `{"class_type", "inputs"}`; an input that is a
list of two is a link, `[node id, output]`, anything else a value.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from majordomo.errors import ConfigurationError

Slot = tuple[str, str]  # node id, name of its input
Slots = Mapping[str, tuple[Slot, ...]]
Graph = dict[str, Any]

SLOTS = (
    "prompt",
    "negative_prompt",
    "seed",
    "steps",
    "cfg_scale",
    "sampler",
    "scheduler",
    "width",
    "height",
    "n",
    "strength",
    "images",
    "mask",
    "model",
)
_TITLES = {
    "prompt": "prompt",
    "positive": "prompt",
    "positive prompt": "prompt",
    "negative": "negative_prompt",
    "negative prompt": "negative_prompt",
    "seed": "seed",
    "steps": "steps",
    "cfg": "cfg_scale",
    "cfg scale": "cfg_scale",
    "sampler": "sampler",
    "scheduler": "scheduler",
    "width": "width",
    "height": "height",
    "batch size": "n",
    "denoise": "strength",
    "strength": "strength",
    "image": "images",
    "images": "images",
    "mask": "mask",
    "model": "model",
    "checkpoint": "model",
}
_INPUTS = {
    "seed": ("seed", "noise_seed"),
    "steps": ("steps",),
    "cfg_scale": ("cfg", "guidance"),
    "sampler": ("sampler_name",),
    "scheduler": ("scheduler",),
    "width": ("width",),
    "height": ("height",),
    "n": ("batch_size", "amount"),
    "strength": ("denoise",),
    "images": ("image",),
    "mask": ("image",),
    "model": ("ckpt_name", "unet_name"),
}
_TEXTS = (
    ("text",),
    ("text_g", "text_l"),
    ("clip_l", "t5xxl"),
    ("prompt",),
)  # CLIPTextEncode, and those of SDXL, Flux and Qwen
_PRIMITIVE = (
    "value",
    "text",
    "string",
    "prompt",
    "int",
    "number",
)  # what nodes that only hold a value call it


@dataclass(frozen=True, slots=True)
class Workflow:
    """A graph and its slots. It is never changed: `copied()` is."""

    graph: Graph
    slots: Slots

    @classmethod
    def parse(
        cls, source: Mapping[str, Any] | str | bytes, slots: Mapping[str, Any] | None = None
    ) -> Workflow:
        """From a graph, as a mapping or as JSON. `slots` names inputs, `{"prompt": ("6", "text")}`, or several for one slot; the others
        are found by the titles of nodes ("prompt", "negative", "seed"...), else by following the links of its samplers.

        Raises ConfigurationError (field workflow or slots) for what is no graph in API format, for one without an output node or a place
        for the prompt, and for a slot that names no input of a node.
        """
        graph = _graph(source)
        given = _given(slots or {}, graph)
        titled, linked = _titled(graph), _linked(graph)
        found = {
            name: given.get(name) or titled.get(name) or linked.get(name) or () for name in SLOTS
        }
        if found["negative_prompt"] == found["prompt"]:
            found["negative_prompt"] = ()
        made = cls(graph, {name: places for name, places in found.items() if places})
        if not made.outputs:
            raise _unusable("it has no node that saves an image")
        if "prompt" not in made.slots:
            raise _unusable(
                'where its prompt belongs is unclear; say it with slots={"prompt": ("6", "text")}'
            )
        return made

    def copied(self) -> Graph:
        return copy.deepcopy(self.graph)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The nodes that save or show images."""
        return tuple(
            node_id
            for node_id, node in self.graph.items()
            if "save" in (kind := node["class_type"].lower()) or "preview" in kind
        )

    @property
    def samplers(self) -> frozenset[str]:
        """The nodes whose steps are the image's steps."""
        return frozenset(
            node_id
            for node_id, node in self.graph.items()
            if "sampler" in node["class_type"].lower()
        )

    @property
    def mask_form(self) -> Literal["luminance", "alpha"]:
        """LoadImage makes its mask from inverted alpha, LoadImageMask from a channel."""
        places = self.slots.get("mask", ())
        node = self.graph[places[0][0]] if places else {}
        channel = node.get("inputs", {}).get("channel")
        return "luminance" if not places or channel in ("red", "green", "blue") else "alpha"

    @property
    def mask_in_image(self) -> bool:
        """Whether one LoadImage gives both the image and the mask."""
        return bool(self.slots.get("mask")) and self.slots.get("mask") == self.slots.get("images")


def _unusable(why: str, field: str = "workflow") -> ConfigurationError:
    return ConfigurationError(f"{field} is unusable: {why}", details={"field": field})


def _graph(source: Mapping[str, Any] | str | bytes) -> Graph:
    if isinstance(source, (str, bytes)):
        try:
            source = json.loads(source)
        except (ValueError, RecursionError):
            raise _unusable("it is no JSON") from None
    if not isinstance(source, Mapping) or not source:
        raise _unusable("it is no graph: a mapping of node ids to nodes")
    if isinstance(source.get("nodes"), Sequence) and "links" in source:
        raise _unusable(
            'it is the format of the editor; export it with "Export (API)" ("Save (API Format)" in older ones)'
        )
    inner = source.get("prompt")
    if isinstance(inner, Mapping) and "class_type" not in source:  # the whole body of POST /prompt
        source = inner
    if (trouble := graph_error(source)) is not None:
        raise _unusable(trouble)
    try:
        graph: Graph = _plain(source)
    except RecursionError:
        raise _unusable("it is nested too deeply") from None
    return graph


def _plain(value: Any) -> Any:
    """A copy in the types of JSON: links may have been tuples, nodes any mapping."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def graph_error(graph: Mapping[Any, Any]) -> str | None:
    """What keeps this from being a graph, or None."""
    for node_id, node in graph.items():
        if not isinstance(node_id, str) or not isinstance(node, Mapping):
            return f"{node_id!r} is no node"
        if not isinstance(node.get("class_type"), str) or not isinstance(
            node.get("inputs"), Mapping
        ):
            return f"node {node_id!r} has no class_type or no inputs"
    return None


def _given(slots: Mapping[str, Any], graph: Graph) -> dict[str, tuple[Slot, ...]]:
    found: dict[str, tuple[Slot, ...]] = {}
    for name, value in slots.items():
        name = {"image": "images", "negative": "negative_prompt"}.get(name, name)
        if name not in SLOTS:
            raise _unusable(f"there is no slot {name!r}; there are {', '.join(SLOTS)}", "slots")
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            raise _unusable(
                f'{name} is a pair of node id and input, as ("6", "text"), or a list of such pairs',
                "slots",
            )
        pairs = [value] if isinstance(value[0], (str, int)) else value
        places = []
        for pair in pairs:
            if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
                raise _unusable(
                    f'{name} is a pair of node id and input, as ("6", "text"), or a list of such pairs',
                    "slots",
                )
            node, input_name = str(pair[0]), str(pair[1])
            if node not in graph:
                raise _unusable(f"{name} names node {node!r}, which the workflow lacks", "slots")
            if input_name not in graph[node]["inputs"]:
                raise _unusable(
                    f"{name} names input {input_name!r}, which node {node!r} lacks", "slots"
                )
            places.append((node, input_name))
        found[name] = tuple(places)
    return found


def _titled(graph: Graph) -> dict[str, tuple[Slot, ...]]:
    """Slots that nodes' titles name, where one node only does."""
    found: dict[str, list[tuple[Slot, ...]]] = {}
    for node_id, node in graph.items():
        meta = node.get("_meta")
        title = meta.get("title") if isinstance(meta, Mapping) else None
        name = (
            _TITLES.get(" ".join(title.lower().replace("_", " ").split()))
            if isinstance(title, str)
            else None
        )
        if name is None:
            continue
        if name in ("prompt", "negative_prompt"):
            place = _text_places(node, node_id) or _value(graph, node_id, _PRIMITIVE)
        else:
            place = _value(graph, node_id, (*_INPUTS[name], *_PRIMITIVE))
        if place:
            found.setdefault(name, []).append(place)
    return {name: places[0] for name, places in found.items() if len(set(places)) == 1}


def _linked(graph: Graph) -> dict[str, tuple[Slot, ...]]:
    """Slots that follow from the samplers' links, where all samplers lead to one place."""
    found = _Found(graph)
    for node_id, node in graph.items():
        if "latent_image" in node["inputs"] and (
            "positive" in node["inputs"] or "guider" in node["inputs"]
        ):
            found.sampler(node_id)
        found.add("model", _own(node, node_id, ("ckpt_name",)))
    if "images" not in found.places:
        masks = {place for places in found.places.get("mask", {}) for place in places}
        for node_id, node in graph.items():
            if node["class_type"] == "LoadImage" and (node_id, "image") not in masks:
                found.add("images", _own(node, node_id, ("image",)))
    return {name: next(iter(places)) for name, places in found.places.items() if len(places) == 1}


class _Found:
    """Walks up from samplers and collects candidates for slots."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.places: dict[str, dict[tuple[Slot, ...], None]] = {}

    def add(self, name: str, place: tuple[Slot, ...]) -> None:
        if place:
            self.places.setdefault(name, {})[place] = None

    def sampler(self, node_id: str) -> None:
        """KSampler and its like hold all by themselves; custom ones have nodes for noise, guider, sampler and sigmas (Flux and later)."""
        inputs = self._graph[node_id]["inputs"]
        parts = [
            _link(self._graph, inputs.get(name))
            for name in ("noise", "guider", "sampler", "sigmas")
        ]
        for part in (node_id, *(linked for linked in parts if linked is not None)):
            for name in ("seed", "steps", "cfg_scale", "sampler", "scheduler", "strength"):
                self.add(name, _value(self._graph, part, _INPUTS[name]))
        guiding = _link(self._graph, inputs.get("guider")) or node_id
        for role, name in (("positive", "prompt"), ("negative", "negative_prompt")):
            for place in self._texts(guiding, role, set()):
                self.add(name, place)
        self._latent(node_id, set())

    def _texts(self, node_id: str, role: str, seen: set[str]) -> Iterator[tuple[Slot, ...]]:
        """Where the text of a conditioning stands, behind whatever lies between. An emptied conditioning has none."""
        inputs = self._graph[node_id]["inputs"]
        names = (
            [role]
            if role in inputs
            else [name for name in inputs if name.startswith("conditioning")]
        )
        for name in names:
            above = _link(self._graph, inputs[name])
            if (
                above is None
                or above in seen
                or self._graph[above]["class_type"] == "ConditioningZeroOut"
            ):
                continue
            seen.add(above)
            node = self._graph[above]
            place = _text_places(node, above) or (
                _value(self._graph, above, ("text",)) if "text" in node["inputs"] else ()
            )
            if place:
                yield place
            else:
                yield from self._texts(above, role, seen)

    def _latent(self, node_id: str, seen: set[str]) -> None:
        """What a latent, an image or a mask is made from: its size, its number, its files."""
        if node_id in seen:
            return
        seen.add(node_id)
        node = self._graph[node_id]
        inputs = node["inputs"]
        kind = node["class_type"]
        if kind == "InvertMask":  # then white is not what is repainted
            return
        if {"width", "height", "batch_size"} <= inputs.keys() or kind == "ImageScale":
            for name in ("width", "height", "n"):
                self.add(name, _value(self._graph, node_id, _INPUTS[name]))
        if kind == "RepeatLatentBatch":
            self.add("n", _value(self._graph, node_id, ("amount",)))
        for name in ("latent_image", "samples", "latent", "pixels", "image", "images"):
            above = _link(self._graph, inputs.get(name))
            if above is not None:
                self._file("images", above)
                self._latent(above, seen)
        above = _link(self._graph, inputs.get("mask"))
        if above is not None:
            self._file("mask", above)
            self._latent(above, seen)

    def _file(self, name: str, node_id: str) -> None:
        if self._graph[node_id]["class_type"] in ("LoadImage", "LoadImageMask"):
            self.add(name, _own(self._graph[node_id], node_id, ("image",)))


def _link(graph: Graph, value: Any) -> str | None:
    """The node that an input is linked to."""
    return (
        str(value[0])
        if isinstance(value, list) and len(value) == 2 and str(value[0]) in graph
        else None
    )


def _own(node: Mapping[str, Any], node_id: str, names: Sequence[str]) -> tuple[Slot, ...]:
    """The first of these inputs that holds a value."""
    for name in names:
        if isinstance(node["inputs"].get(name), (str, int, float)):
            return ((node_id, name),)
    return ()


def _value(graph: Graph, node_id: str, names: Sequence[str]) -> tuple[Slot, ...]:
    """The same, where a value may stand in a node of its own that is linked here."""
    if found := _own(graph[node_id], node_id, names):
        return found
    for name in names:
        above = _link(graph, graph[node_id]["inputs"].get(name))
        if above is not None:
            return _own(graph[above], above, (*names, *_PRIMITIVE))
    return ()


def _text_places(node: Mapping[str, Any], node_id: str) -> tuple[Slot, ...]:
    for names in _TEXTS:
        if all(isinstance(node["inputs"].get(name), str) for name in names):
            return tuple((node_id, name) for name in names)
    return ()
