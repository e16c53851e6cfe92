"""Read and write the generation metadata that image programs store in their files.

Two formats are supported: the "parameters" text of A1111 and stable-diffusion.cpp, and ComfyUI's
graph. The text consists of the prompt, then "Negative prompt: ...", then one last line of pairs
that begins with "Steps: "; each of them may be missing. The metadata is unverified: any program
that saved the image may have written anything.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_PAIR = re.compile(r'\s*(\w[\w \-/]{0,60}):\s*("(?:\\.|[^"\\])*"|\{.*\}|[^,]*)(?:,|$)')
_NEGATIVE = "Negative prompt:"
_SIZE = re.compile(r"[1-9]\d{0,5}x[1-9]\d{0,5}")
_MAX_VALUE_CHARACTERS = 2000
# canonical field: (its label in the pairs, its type)
_PAIRS: dict[str, tuple[str, type]] = {
    "steps": ("Steps", int),
    "sampler": ("Sampler", str),
    "scheduler": ("Schedule type", str),
    "cfg_scale": ("CFG scale", float),
    "seed": ("Seed", int),
    "size": ("Size", str),
    "strength": ("Denoising strength", float),
    "model": ("Model", str),
}
# input of a ComfyUI node: canonical field
_GRAPH_INPUTS = {
    "seed": "seed",
    "noise_seed": "seed",
    "steps": "steps",
    "cfg": "cfg_scale",
    "sampler_name": "sampler",
    "scheduler": "scheduler",
}


@dataclass(frozen=True, slots=True)
class ParsedMetadata:
    """The three parts of a "parameters" text."""

    prompt: str | None = None
    """The prompt; None if there was no text at all."""
    negative_prompt: str | None = None
    """The negative prompt; None if there is none."""
    pairs: dict[str, str] = field(default_factory=dict)
    """The values of the last line by their label, unquoted and not converted."""

    @property
    def seed(self) -> int | None:
        """The seed, or None if there is none or it is not a number of up to 20 digits."""
        digits = self.pairs.get("Seed", "")
        return int(digits) if re.fullmatch(r"[0-9]{1,20}", digits) else None


def read_text(text: str | None) -> ParsedMetadata:
    """Split a "parameters" text into its parts."""
    if text is None:
        return ParsedMetadata()
    lines = text.replace("\r\n", "\n").strip().split("\n")
    pairs = _parse_pairs(lines[-1])
    if pairs:
        lines.pop()
    start = next(
        (index for index, line in enumerate(lines) if line.startswith(_NEGATIVE)), len(lines)
    )
    negative = "\n".join(lines[start:])[len(_NEGATIVE) :].strip()
    return ParsedMetadata("\n".join(lines[:start]).strip(), negative or None, pairs)


def read_parameters(texts: Mapping[str, str]) -> dict[str, Any]:
    """Return the generation parameters in the text chunks of an image.

    Canonical fields are prompt, negative_prompt, steps, sampler, scheduler, cfg_scale, seed, size,
    strength and model, as far as they are present. All other pairs are returned as text under their
    own labels.
    """
    if "parameters" in texts:
        return _from_text(read_text(texts["parameters"]))
    return _from_graph(texts["prompt"]) if "prompt" in texts else {}


def write_parameters(values: Mapping[str, Any]) -> str:
    """Return the "parameters" text for these canonical fields; None and "" are left out."""
    lines = [str(values.get("prompt") or "").strip()]
    if values.get("negative_prompt"):
        lines.append(f"{_NEGATIVE} {values['negative_prompt']}")
    pairs = [
        (label, values[name])
        for name, (label, _) in _PAIRS.items()
        if values.get(name) not in (None, "")
    ]
    if values.get("steps") is None:
        # Every reader recognizes the line of pairs by "Steps".
        pairs.insert(0, ("Steps", "default"))
    lines.append(", ".join(f"{label}: {_quote(value)}" for label, value in pairs))
    return "\n".join(lines)


def _from_text(metadata: ParsedMetadata) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    if metadata.prompt:
        parameters["prompt"] = metadata.prompt
    if metadata.negative_prompt:
        parameters["negative_prompt"] = metadata.negative_prompt
    other_pairs = dict(metadata.pairs)
    for name, (label, kind) in _PAIRS.items():
        # The canonical name is an alias of the label and is validated alike.
        for text in (other_pairs.pop(label, None), other_pairs.pop(name, None)):
            value = _convert_text(kind, text)
            if value is not None and (name != "size" or _SIZE.fullmatch(value)):
                parameters.setdefault(name, value)
    return parameters | {
        label: value for label, value in other_pairs.items() if label not in parameters
    }


def _convert_text(kind: type, text: str | None) -> Any:
    """Convert a text to a type; None if it is missing, empty, too long, or not such a value."""
    if text is None or text == "" or len(text) > _MAX_VALUE_CHARACTERS:
        return None
    try:
        value = kind(text)
    except (ValueError, OverflowError):
        return None
    return value if not isinstance(value, float) or math.isfinite(value) else None


def _convert_input(canonical: str, value: Any) -> Any:
    """Convert an input of a graph node to the type of its canonical field.

    Returns None for a link to another node and for a value of another type.
    """
    kind = _PAIRS[canonical][1]
    if isinstance(value, str):
        return _convert_text(kind, value)
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or kind is str
        or not -1e300 < value < 1e300
    ):
        return None
    return value if isinstance(value, kind) or kind is float else None


def _from_graph(text: str) -> dict[str, Any]:
    """Read a ComfyUI graph: the settings of its samplers and the prompts linked to them."""
    try:
        graph = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    nodes = (
        {key: node["inputs"] for key, node in graph.items() if _is_node(node)}
        if isinstance(graph, dict)
        else {}
    )
    parameters: dict[str, Any] = {}
    # Fields whose value differs between several samplers: no single value describes the image.
    ambiguous: set[str] = set()
    for inputs in nodes.values():
        for name, canonical in _GRAPH_INPUTS.items():
            value = _convert_input(canonical, inputs.get(name))
            if value is not None and parameters.setdefault(canonical, value) != value:
                ambiguous.add(canonical)
        for link, canonical in (("positive", "prompt"), ("negative", "negative_prompt")):
            target = inputs.get(link)
            source = nodes.get(str(target[0]), {}) if isinstance(target, list) and target else {}
            if isinstance(source.get("text"), str) and source["text"]:
                parameters.setdefault(canonical, source["text"])
        if isinstance(inputs.get("ckpt_name"), str):
            parameters.setdefault("model", inputs["ckpt_name"])
    return {name: value for name, value in parameters.items() if name not in ambiguous}


def _is_node(node: Any) -> bool:
    return isinstance(node, dict) and isinstance(node.get("inputs"), dict)


def _quote(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r'[,"\n\r:{}]', text) else text


def _parse_pairs(line: str) -> dict[str, str]:
    """Parse a line that consists only of pairs, "Steps" among them.

    Any other line belongs to the prompt and gives an empty dict.
    """
    pairs: dict[str, str] = {}
    position = 0
    while position < len(line):
        match = _PAIR.match(line, position)
        if match is None:
            return {}
        pairs[match[1].strip()] = _unquote(match[2].strip())
        position = match.end()
    return pairs if "Steps" in pairs else {}


def _unquote(value: str) -> str:
    if value.startswith('"'):
        try:
            return str(json.loads(value))
        except ValueError:
            return value
    return value
