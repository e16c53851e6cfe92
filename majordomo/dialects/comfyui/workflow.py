"""ComfyUI workflows: a graph in API format, and the node inputs that a request sets.

Sources: ComfyUI `execution.py` and `nodes.py` of 2024 to 2026. A graph maps node ids to
`{"class_type", "inputs"}`. An input that is a list of two items is a link, `[node id, output]`;
anything else is a value.

A slot is a field of a request that a workflow can accept, with the node inputs that hold its value.
Slots are found in three ways, in this order:

1. The user names the inputs of a slot.
2. The title of a node names the slot ("prompt", "negative", "seed").
3. Links are followed upwards from the samplers. A slot is found if they lead to one input only.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from majordomo.errors import ConfigurationError

NodeInput = tuple[str, str]
"""A node id and the name of one of its inputs."""
Slots = Mapping[str, tuple[NodeInput, ...]]
"""The node inputs that hold the value, by the name of the slot."""
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

# Slots by the title of a node, in lower case and with spaces for underscores.
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

# Names of the node inputs that can hold the value of a slot.
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

# Inputs that hold the text of an encoder node: those of CLIPTextEncode, and of the encoders of
# SDXL, Flux and Qwen.
_TEXT_INPUTS = (("text",), ("text_g", "text_l"), ("clip_l", "t5xxl"), ("prompt",))

# The input that holds the value of a primitive node.
_PRIMITIVE_INPUTS = ("value", "text", "string", "prompt", "int", "number")
_PAIR_EXPECTED = (
    'must be a pair of node id and input name, for example ("6", "text"), or a list of such pairs'
)


@dataclass(frozen=True, slots=True)
class Workflow:
    """A graph and its slots. The graph is never changed; change a copy from `copied()`."""

    graph: Graph
    """The nodes by id, in API format."""
    slots: Slots
    """The node inputs that each request field sets."""

    @classmethod
    def parse(
        cls, source: Mapping[str, Any] | str | bytes, slots: Mapping[str, Any] | None = None
    ) -> Workflow:
        """Return the workflow in a graph.

        Args:
            source: The graph in API format, as a mapping or as JSON; the body of `POST /prompt`
                is accepted too.
            slots: Node inputs by slot, `{"prompt": ("6", "text")}`, or a list of inputs for one
                slot. The other slots are found by the titles of nodes ("prompt", "negative",
                "seed"...), else by following the links of the samplers.

        Raises:
            ConfigurationError: `source` is not a graph in API format, has no output node or no
                input for the prompt (field `workflow`), or a slot names a missing node or input
                (field `slots`).
        """
        graph = _parse_graph(source)
        explicit = _explicit_slots(slots or {}, graph)
        titled, linked = _titled_slots(graph), _linked_slots(graph)
        inputs_by_slot = {
            name: explicit.get(name) or titled.get(name) or linked.get(name) or () for name in SLOTS
        }
        if inputs_by_slot["negative_prompt"] == inputs_by_slot["prompt"]:
            inputs_by_slot["negative_prompt"] = ()
        workflow = cls(graph, {name: inputs for name, inputs in inputs_by_slot.items() if inputs})
        if not workflow.outputs:
            raise _invalid("it has no node that saves an image")
        if "prompt" not in workflow.slots:
            raise _invalid(
                "no input for the prompt was found; name it, for example with "
                'slots={"prompt": ("6", "text")}'
            )
        return workflow

    def copied(self) -> Graph:
        """Return a deep copy of the graph."""
        return copy.deepcopy(self.graph)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Ids of the nodes that save or show images."""
        return tuple(
            node_id
            for node_id, node in self.graph.items()
            if "save" in (kind := node["class_type"].lower()) or "preview" in kind
        )

    @property
    def samplers(self) -> frozenset[str]:
        """Ids of the nodes whose steps are the steps of the image."""
        return frozenset(
            node_id
            for node_id, node in self.graph.items()
            if "sampler" in node["class_type"].lower()
        )

    @property
    def mask_format(self) -> Literal["luminance", "alpha"]:
        """The format of the mask: LoadImage inverts alpha, LoadImageMask reads a channel."""
        inputs = self.slots.get("mask", ())
        node = self.graph[inputs[0][0]] if inputs else {}
        channel = node.get("inputs", {}).get("channel")
        return "luminance" if not inputs or channel in ("red", "green", "blue") else "alpha"

    @property
    def mask_in_image(self) -> bool:
        """Whether one LoadImage provides both the image and the mask."""
        return bool(self.slots.get("mask")) and self.slots.get("mask") == self.slots.get("images")


def _invalid(reason: str, field: str = "workflow") -> ConfigurationError:
    return ConfigurationError(f"{field} is invalid: {reason}", details={"field": field})


def _parse_graph(source: Mapping[str, Any] | str | bytes) -> Graph:
    if isinstance(source, (str, bytes)):
        try:
            source = json.loads(source)
        except (ValueError, RecursionError):
            raise _invalid("it is not valid JSON") from None
    if not isinstance(source, Mapping) or not source:
        raise _invalid("it is not a graph; a graph maps node ids to nodes")
    if isinstance(source.get("nodes"), Sequence) and "links" in source:
        raise _invalid(
            'it is in the editor\'s format; export it with "Export (API)" '
            '("Save (API Format)" in older versions)'
        )
    # The body of POST /prompt has the graph in "prompt".
    prompt = source.get("prompt")
    if isinstance(prompt, Mapping) and "class_type" not in source:
        source = prompt
    if (problem := graph_error(source)) is not None:
        raise _invalid(problem)
    try:
        graph: Graph = _to_json_types(source)
    except RecursionError:
        raise _invalid("it is nested too deeply") from None
    return graph


def _to_json_types(value: Any) -> Any:
    """Return a copy in the types of JSON: links may be tuples, and nodes any mapping."""
    if isinstance(value, Mapping):
        return {str(name): _to_json_types(item) for name, item in value.items()}
    return [_to_json_types(item) for item in value] if isinstance(value, (list, tuple)) else value


def graph_error(graph: Mapping[Any, Any]) -> str | None:
    """Return why this is not a graph, None for a valid one."""
    for node_id, node in graph.items():
        if not isinstance(node_id, str) or not isinstance(node, Mapping):
            return f"{node_id!r} is not a node"
        if not isinstance(node.get("class_type"), str) or not isinstance(
            node.get("inputs"), Mapping
        ):
            return f"node {node_id!r} has no class_type or no inputs"
    return None


def _explicit_slots(slots: Mapping[str, Any], graph: Graph) -> dict[str, tuple[NodeInput, ...]]:
    """Return the slots that the user named."""
    checked: dict[str, tuple[NodeInput, ...]] = {}
    for name, value in slots.items():
        name = {"image": "images", "negative": "negative_prompt"}.get(name, name)
        if name not in SLOTS:
            raise _invalid(f"unknown slot {name!r}; the slots are {', '.join(SLOTS)}", "slots")
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            raise _invalid(f"{name} {_PAIR_EXPECTED}", "slots")
        pairs = [value] if isinstance(value[0], (str, int)) else value
        inputs = []
        for pair in pairs:
            if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
                raise _invalid(f"{name} {_PAIR_EXPECTED}", "slots")
            node_id, input_name = str(pair[0]), str(pair[1])
            if node_id not in graph:
                raise _invalid(
                    f"{name} names node {node_id!r}, which is not in the workflow", "slots"
                )
            if input_name not in graph[node_id]["inputs"]:
                raise _invalid(
                    f"{name} names input {input_name!r}, which node {node_id!r} does not have",
                    "slots",
                )
            inputs.append((node_id, input_name))
        checked[name] = tuple(inputs)
    return checked


def _titled_slots(graph: Graph) -> dict[str, tuple[NodeInput, ...]]:
    """Return the slots that are named by the title of exactly one node."""
    candidates: dict[str, list[tuple[NodeInput, ...]]] = {}
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
            inputs = _text_inputs(node, node_id) or _value_input(graph, node_id, _PRIMITIVE_INPUTS)
        else:
            inputs = _value_input(graph, node_id, (*_INPUTS[name], *_PRIMITIVE_INPUTS))
        if inputs:
            candidates.setdefault(name, []).append(inputs)
    return {name: options[0] for name, options in candidates.items() if len(set(options)) == 1}


def _linked_slots(graph: Graph) -> dict[str, tuple[NodeInput, ...]]:
    """Return the slots for which the links of all samplers lead to one input."""
    search = _LinkSearch(graph)
    for node_id, node in graph.items():
        if "latent_image" in node["inputs"] and (
            "positive" in node["inputs"] or "guider" in node["inputs"]
        ):
            search.follow_sampler(node_id)
        search.add("model", _own_input(node, node_id, ("ckpt_name",)))
    if "images" not in search.candidates:
        masks = {pair for inputs in search.candidates.get("mask", {}) for pair in inputs}
        for node_id, node in graph.items():
            if node["class_type"] == "LoadImage" and (node_id, "image") not in masks:
                search.add("images", _own_input(node, node_id, ("image",)))
    return {
        name: next(iter(options))
        for name, options in search.candidates.items()
        if len(options) == 1
    }


class _LinkSearch:
    """A search for slots that follows links upwards from the samplers."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        # By slot. The inner dictionary is an ordered set.
        self.candidates: dict[str, dict[tuple[NodeInput, ...], None]] = {}

    def add(self, name: str, inputs: tuple[NodeInput, ...]) -> None:
        """Add a candidate for a slot, unless it is empty."""
        if inputs:
            self.candidates.setdefault(name, {})[inputs] = None

    def follow_sampler(self, node_id: str) -> None:
        """Add the candidates of one sampler.

        KSampler and similar nodes hold all settings; custom samplers have separate nodes for
        noise, guider, sampler and sigmas (Flux and later).
        """
        inputs = self._graph[node_id]["inputs"]
        linked_nodes = [
            _linked_node(self._graph, inputs.get(name))
            for name in ("noise", "guider", "sampler", "sigmas")
        ]
        for settings_node in (node_id, *(linked for linked in linked_nodes if linked is not None)):
            for name in ("seed", "steps", "cfg_scale", "sampler", "scheduler", "strength"):
                self.add(name, _value_input(self._graph, settings_node, _INPUTS[name]))
        guider = _linked_node(self._graph, inputs.get("guider")) or node_id
        for role, name in (("positive", "prompt"), ("negative", "negative_prompt")):
            for text_inputs in self._conditioning_texts(guider, role, set()):
                self.add(name, text_inputs)
        self._follow_latent(node_id, set())

    def _conditioning_texts(
        self, node_id: str, role: str, seen: set[str]
    ) -> Iterator[tuple[NodeInput, ...]]:
        """Yield the inputs with the text of a conditioning, through any nodes in between.

        A conditioning that is zeroed out has no text.
        """
        inputs = self._graph[node_id]["inputs"]
        names = (
            [role]
            if role in inputs
            else [name for name in inputs if name.startswith("conditioning")]
        )
        for name in names:
            above = _linked_node(self._graph, inputs[name])
            if (
                above is None
                or above in seen
                or self._graph[above]["class_type"] == "ConditioningZeroOut"
            ):
                continue
            seen.add(above)
            node = self._graph[above]
            text_inputs = _text_inputs(node, above) or (
                _value_input(self._graph, above, ("text",)) if "text" in node["inputs"] else ()
            )
            if text_inputs:
                yield text_inputs
            else:
                yield from self._conditioning_texts(above, role, seen)

    def _follow_latent(self, node_id: str, seen: set[str]) -> None:
        """Add the size, the batch size and the files that a latent, image or mask is made from."""
        if node_id in seen:
            return
        seen.add(node_id)
        node = self._graph[node_id]
        inputs = node["inputs"]
        class_type = node["class_type"]
        # Behind InvertMask, white is no longer what is repainted.
        if class_type == "InvertMask":
            return
        if {"width", "height", "batch_size"} <= inputs.keys() or class_type == "ImageScale":
            for name in ("width", "height", "n"):
                self.add(name, _value_input(self._graph, node_id, _INPUTS[name]))
        if class_type == "RepeatLatentBatch":
            self.add("n", _value_input(self._graph, node_id, ("amount",)))
        for name in ("latent_image", "samples", "latent", "pixels", "image", "images"):
            above = _linked_node(self._graph, inputs.get(name))
            if above is not None:
                self._add_file("images", above)
                self._follow_latent(above, seen)
        above = _linked_node(self._graph, inputs.get("mask"))
        if above is not None:
            self._add_file("mask", above)
            self._follow_latent(above, seen)

    def _add_file(self, name: str, node_id: str) -> None:
        if self._graph[node_id]["class_type"] in ("LoadImage", "LoadImageMask"):
            self.add(name, _own_input(self._graph[node_id], node_id, ("image",)))


def _linked_node(graph: Graph, value: Any) -> str | None:
    """Return the id of the node that an input is linked to, None for a value."""
    return (
        str(value[0])
        if isinstance(value, list) and len(value) == 2 and str(value[0]) in graph
        else None
    )


def _own_input(
    node: Mapping[str, Any], node_id: str, names: Sequence[str]
) -> tuple[NodeInput, ...]:
    """Return the first of these inputs that holds a value, () when none does."""
    for name in names:
        if isinstance(node["inputs"].get(name), (str, int, float)):
            return ((node_id, name),)
    return ()


def _value_input(graph: Graph, node_id: str, names: Sequence[str]) -> tuple[NodeInput, ...]:
    """Return the first of these inputs that holds a value, here or in a linked primitive node."""
    if inputs := _own_input(graph[node_id], node_id, names):
        return inputs
    for name in names:
        above = _linked_node(graph, graph[node_id]["inputs"].get(name))
        if above is not None:
            return _own_input(graph[above], above, (*names, *_PRIMITIVE_INPUTS))
    return ()


def _text_inputs(node: Mapping[str, Any], node_id: str) -> tuple[NodeInput, ...]:
    """Return the text inputs of an encoder node, () for other nodes."""
    for names in _TEXT_INPUTS:
        if all(isinstance(node["inputs"].get(name), str) for name in names):
            return tuple((node_id, name) for name in names)
    return ()
