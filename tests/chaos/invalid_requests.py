"""Invalid values for requests, each with the field that the error names.

None of them may reach a backend.
"""

from __future__ import annotations

import math
from collections import UserDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

NAN, INFINITY = math.nan, math.inf


@dataclass
class _Point:
    x: float = NAN


def _recursive() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["a"] = {"b": [value]}
    return value


def _nested(levels: int = 5000) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


NAMES: list[Any] = [
    "",
    " ",
    "..",
    "a/../b",
    "../../etc/passwd",
    "a\\..\\b",
    " a",
    "a ",
    "a\r\nx-injected: b",
    "a\n",
    "a\tb",
    "a\0",
    "a\x1b[31m",
    "a\x7f",
    "a\u2028b",
    "a\u202egnp.exe",
    "\ufeffa",
    "\ud800",
    "a" * 513,
    5,
    None,
    b"a",
    ["a"],
]

# Functions, because some values can be read only once or must not be printed by a failing test.
EXTRAS: dict[str, Callable[[], Any]] = {
    "not a mapping": lambda: 5,
    "a list": lambda: [("a", 1)],
    "a number for a key": lambda: {5: 1},
    "NaN": lambda: {"x": NAN},
    "infinity": lambda: {"x": {"y": [1, -INFINITY]}},
    "NaN within a mapping of another kind": lambda: {"x": UserDict(y=NAN)},
    "NaN within a set": lambda: {"x": {NAN}},
    "NaN within a dataclass": lambda: {"x": _Point()},
    "NaN within a deque": lambda: {"x": deque([NAN])},
    "NaN within a generator": lambda: {"x": (item for item in [NAN])},
    "a generator": lambda: {"x": (item for item in [1, 2])},
    "a recursive mapping": _recursive,
    "nested": _nested,
    "lone surrogate": lambda: {"x": "a\ud800"},
    "lone surrogate for a key": lambda: {"\udfff": 1},
    "lone surrogate below": lambda: {"x": [{"\ud800": 1}]},
    "invalid UTF-8": lambda: {"x": b"\xff\xfe"},
    "an object": lambda: {"x": object()},
    "a function": lambda: {"x": print},
}

IMAGES: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no prompt": ("", {}, "prompt"),
    "only space": (" \n", {}, "prompt"),
    "NUL": ("a\0b", {}, "prompt"),
    "lone surrogate": ("a\ud800b", {}, "prompt"),
    "too long": ("x" * 1_000_001, {}, "prompt"),
    "prompt of bytes": (b"a", {}, "prompt"),
    "NUL in the negative prompt": ("a", {"negative_prompt": "\0"}, "negative_prompt"),
    "surrogate in the negative prompt": ("a", {"negative_prompt": "\ud800"}, "negative_prompt"),
    "size axb": ("a", {"size": "axb"}, "size"),
    "size 64x": ("a", {"size": "64x"}, "size"),
    "size -1x0": ("a", {"size": "-1x0"}, "size"),
    "size 0x64": ("a", {"size": "0x64"}, "size"),
    "size 99999x99999": ("a", {"size": "99999x99999"}, "size"),
    "size beyond a side": ("a", {"size": "16385x8"}, "size"),
    "size 1024×1024": ("a", {"size": "1024\u00d71024"}, "size"),
    "size in other digits": ("a", {"size": "\u0666\u0664x\u0666\u0664"}, "size"),
    "size with line end": ("a", {"size": "64x64\n"}, "size"),
    "size 5": ("a", {"size": 5}, "size"),
    "aspect": ("a", {"aspect": "wide"}, "aspect"),
    "aspect 0:1": ("a", {"aspect": "0:1"}, "aspect"),
    "megapixels NaN": ("a", {"megapixels": NAN}, "megapixels"),
    "megapixels 1e9": ("a", {"megapixels": 1e9}, "megapixels"),
    "n 17": ("a", {"n": 17}, "n"),
    "n 10**9": ("a", {"n": 10**9}, "n"),
    "n -1": ("a", {"n": -1}, "n"),
    "n true": ("a", {"n": True}, "n"),
    "n 1.5": ("a", {"n": 1.5}, "n"),
    "n of text": ("a", {"n": "1"}, "n"),
    "cfg NaN": ("a", {"cfg_scale": NAN}, "cfg_scale"),
    "cfg infinite": ("a", {"cfg_scale": INFINITY}, "cfg_scale"),
    "cfg below 0": ("a", {"cfg_scale": -1.0}, "cfg_scale"),
    "cfg 10**400": ("a", {"cfg_scale": 10**400}, "cfg_scale"),
    "steps 0": ("a", {"steps": 0}, "steps"),
    "steps 1.5": ("a", {"steps": 1.5}, "steps"),
    "steps 10**5000": ("a", {"steps": 10**5000}, "steps"),
    "seed 2**63": ("a", {"seed": 2**63}, "seed"),
    "seed -1": ("a", {"seed": -1}, "seed"),
    "strength 2": ("a", {"strength": 2.0}, "strength"),
    "strength NaN": ("a", {"strength": NAN}, "strength"),
    "sampler with CR LF": ("a", {"sampler": "euler\r\nx: y"}, "sampler"),
    "scheduler with NUL": ("a", {"scheduler": "a\0"}, "scheduler"),
    "scheduler too long": ("a", {"scheduler": "a" * 101}, "scheduler"),
    "quality with CR LF": ("a", {"quality": "low\r\nx: y"}, "quality"),
    "background of a surrogate": ("a", {"background": "\ud800"}, "background"),
    "format exe": ("a", {"output_format": "exe"}, "output_format"),
    "format with CR LF": ("a", {"output_format": "png\r\n"}, "output_format"),
    "previews -1": ("a", {"previews": -1}, "previews"),
    "user_id with CR LF": ("a", {"user_id": "a\r\nb"}, "user_id"),
    "images of bytes": ("a", {"images": [b"x"]}, "images"),
    "images of links": ("a", {"images": ["http://127.0.0.1:9/a.png"]}, "images"),
    "images 5": ("a", {"images": 5}, "images"),
    "mask of text": ("a", {"mask": "data:image/png;base64,AAAA"}, "mask"),
}

CHATS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no messages": ([], {}, "messages"),
    "NUL": ("a\0", {}, "messages"),
    "surrogate": ("\udfff", {}, "messages"),
    "too long": ("x" * 1_000_001, {}, "messages"),
    "not a message": (["x"], {}, "messages"),
    "not a list": (5, {}, "messages"),
    "None": (None, {}, "messages"),
    "bytes": (b"hi", {}, "messages"),
    "temperature": ("a", {"temperature": NAN}, "temperature"),
    "temperature 10**400": ("a", {"temperature": 10**400}, "temperature"),
    "top_p": ("a", {"top_p": INFINITY}, "top_p"),
    "top_k": ("a", {"top_k": 2**40}, "top_k"),
    "max_tokens": ("a", {"max_tokens": 0}, "max_tokens"),
    "max_tokens 10**5000": ("a", {"max_tokens": 10**5000}, "max_tokens"),
    "seed": ("a", {"seed": 2**64}, "seed"),
    "reasoning": ("a", {"reasoning": "very"}, "reasoning"),
    "reasoning NaN": ("a", {"reasoning": NAN}, "reasoning"),
    "tool_choice": ("a", {"tool_choice": "unknown"}, "tool_choice"),
    "tools 5": ("a", {"tools": 5}, "tools"),
    "tool name": ("a", {"tools": [lambda: 1]}, "tools"),
    "stop 5": ("a", {"stop": 5}, "stop"),
    "empty stop": ("a", {"stop": [""]}, "stop"),
    "stop NUL": ("a", {"stop": ["\0"]}, "stop"),
    "too many stops": ("a", {"stop": ["a"] * 17}, "stop"),
    "user_id": ("a", {"user_id": "a\0"}, "user_id"),
}

EMBEDDINGS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no texts": ([], {}, "texts"),
    "an empty text": (["a", ""], {}, "texts"),
    "NUL": ("a\0", {}, "texts"),
    "surrogate": (["\ud800"], {}, "texts"),
    "numbers": ([5], {}, "texts"),
    "dimensions": ("a", {"dimensions": NAN}, "dimensions"),
    "dimensions 10**9": ("a", {"dimensions": 10**9}, "dimensions"),
    "user_id": ("a", {"user_id": "\ud800"}, "user_id"),
}

# Settings of a provider. No byte is sent, and no error shows the value, which may be a key.
KEYS = [
    "a\nb",
    "a\r\nx-injected: b",
    "a\0b",
    "a\ud800b",
    "schlüssel",
    "a\x7fb",
    " ab",
    "ab ",
    "a\tb",
    "\u2028",
    "🦊",
    "sk-\u200bx",
]
HEADERS: list[dict[str, Any]] = [
    {"x-key": "secret-a\r\nx-injected: b"},
    {"x-key": "secret-a\0"},
    {"x-key": "secret-a\ud800"},
    {"x-key": "secret-ä"},
    {"x-key": " secret-a"},
    {"x-key\r\nx-injected": "secret-a"},
    {"x-key: a": "secret-a"},
    {"": "secret-a"},
    {" x": "secret-a"},
    {"ä": "secret-a"},
    {"Host": "secret-evil.test"},
    {"content-length": "0"},
    {"Transfer-Encoding": "chunked"},
    {"connection": "close"},
]
ADDRESSES: list[Any] = [
    "",
    "127.0.0.1",
    "file:///etc/passwd",
    "ftp://secret.test",
    "//secret.test/v1",
    "http://",
    "http:///v1",
    "http://user:secret-word@127.0.0.1",
    "http://secret-key@127.0.0.1",
    "http://127.0.0.1/v1?key=secret",
    "http://127.0.0.1/v1#secret",
    "http://127.0.0.1:99999",
    "http://127.0.0.1:x",
    "http://127.0.0.1/v1\r\nx-injected: secret",
    "http://127.0.0.1/v1\0",
    "http://127.0.0.1/a b",
    "http://127.0.0.1\\@evil.test",
    "http://127.0.0.1/\ud800",
    "http://" + "a" * 3000,
    "http://a..b/",
    5,
    b"http://127.0.0.1",
]
