"""How image programs write down what an image was made with: the text of A1111 and stable-diffusion.cpp, and ComfyUI's graph.

The text is prompt, then "Negative prompt: ...", then one last line of pairs that begins with "Steps: "; each may be missing. All of it is a
claim: whoever saved the image may have written anything.
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
# canonical field: (its name in the pairs, what makes a value of its text)
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


_GRAPH = {
    "seed": "seed",
    "noise_seed": "seed",
    "steps": "steps",
    "cfg": "cfg_scale",
    "sampler_name": "sampler",
    "scheduler": "scheduler",
}


@dataclass(frozen=True, slots=True)
class ParsedMetadata:
    """The three parts of the text."""

    prompt: str | None = None
    negative_prompt: str | None = None
    pairs: dict[str, str] = field(default_factory=dict)

    @property
    def seed(self) -> int | None:
        digits = self.pairs.get("Seed", "")
        return int(digits) if re.fullmatch(r"[0-9]{1,20}", digits) else None


def read_text(text: str | None) -> ParsedMetadata:
    if text is None:
        return ParsedMetadata()
    lines = text.replace("\r\n", "\n").strip().split("\n")
    pairs = _pairs(lines[-1])
    if pairs:
        lines.pop()
    start = next(
        (index for index, line in enumerate(lines) if line.startswith(_NEGATIVE)), len(lines)
    )
    negative = "\n".join(lines[start:])[len(_NEGATIVE) :].strip()
    return ParsedMetadata("\n".join(lines[:start]).strip(), negative or None, pairs)


def read_parameters(texts: Mapping[str, str]) -> dict[str, Any]:
    """Canonical fields found in the text chunks of an image, as far as they are there: prompt, negative_prompt, steps, sampler,
    scheduler, cfg_scale, seed, size, strength, model; and under their own names all other pairs, as text."""
    if "parameters" in texts:
        return _from_text(read_text(texts["parameters"]))
    return _from_graph(texts["prompt"]) if "prompt" in texts else {}


def write_parameters(values: Mapping[str, Any]) -> str:
    """The text for these canonical fields; what is None or "" is left out."""
    lines = [str(values.get("prompt") or "").strip()]
    if values.get("negative_prompt"):
        lines.append(f"{_NEGATIVE} {values['negative_prompt']}")
    pairs = [
        (label, values[name])
        for name, (label, _) in _PAIRS.items()
        if values.get(name) not in (None, "")
    ]
    if values.get("steps") is None:
        pairs.insert(0, ("Steps", "default"))  # by this word every reader finds the line
    lines.append(", ".join(f"{label}: {_quoted(value)}" for label, value in pairs))
    return "\n".join(lines)


def _from_text(told: ParsedMetadata) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if told.prompt:
        found["prompt"] = told.prompt
    if told.negative_prompt:
        found["negative_prompt"] = told.negative_prompt
    rest = dict(told.pairs)
    for name, (label, kind) in _PAIRS.items():
        # its own name instead of the label is a claim about the same field, and no way around what may stand there
        for text in (rest.pop(label, None), rest.pop(name, None)):
            value = _as(kind, text)
            if value is not None and (name != "size" or _SIZE.fullmatch(value)):
                found.setdefault(name, value)
    return found | {label: value for label, value in rest.items() if label not in found}


def _as(kind: type, text: str | None) -> Any:
    if text is None or text == "" or len(text) > 2000:
        return None
    try:
        value = kind(text)
    except (ValueError, OverflowError):
        return None
    return value if not isinstance(value, float) or math.isfinite(value) else None


def _told(canonical: str, value: Any) -> Any:
    """A value of a graph as its field has it; None for a link to another node, or anything else that is none."""
    kind = _PAIRS[canonical][1]
    if isinstance(value, str):
        return _as(kind, value)
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or kind is str
        or not -1e300 < value < 1e300
    ):
        return None
    return value if isinstance(value, kind) or kind is float else None


def _from_graph(text: str) -> dict[str, Any]:
    """ComfyUI stores its whole graph: the samplers' settings, and the texts their prompts lead to."""
    try:
        graph = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    nodes = (
        {key: node["inputs"] for key, node in graph.items() if _is_node(node)}
        if isinstance(graph, dict)
        else {}
    )
    found: dict[str, Any] = {}
    disputed: set[str] = set()
    for inputs in nodes.values():
        for name, canonical in _GRAPH.items():
            value = _told(canonical, inputs.get(name))
            if value is not None and found.setdefault(canonical, value) != value:
                disputed.add(canonical)  # several samplers: no one value is the image's
        for link, canonical in (("positive", "prompt"), ("negative", "negative_prompt")):
            target = inputs.get(link)
            source = nodes.get(str(target[0]), {}) if isinstance(target, list) and target else {}
            if isinstance(source.get("text"), str) and source["text"]:
                found.setdefault(canonical, source["text"])
        if isinstance(inputs.get("ckpt_name"), str):
            found.setdefault("model", inputs["ckpt_name"])
    return {name: value for name, value in found.items() if name not in disputed}


def _is_node(node: Any) -> bool:
    return isinstance(node, dict) and isinstance(node.get("inputs"), dict)


def _quoted(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r'[,"\n\r:{}]', text) else text


def _pairs(line: str) -> dict[str, str]:
    """The pairs of a line that consists of pairs from end to end and counts steps; any other line belongs to the prompt."""
    found: dict[str, str] = {}
    at = 0
    while at < len(line):
        match = _PAIR.match(line, at)
        if match is None:
            return {}
        found[match[1].strip()] = _unquoted(match[2].strip())
        at = match.end()
    return found if "Steps" in found else {}


def _unquoted(value: str) -> str:
    if value.startswith('"'):
        try:
            return str(json.loads(value))
        except ValueError:
            return value
    return value
