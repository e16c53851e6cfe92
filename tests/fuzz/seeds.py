"""Seeds for fuzzing: valid examples of the input of each target."""

from __future__ import annotations

import base64
import json

import majordomo as md
from majordomo import llm
from majordomo.media.exif import write_exif
from tests.support.chat_dialects import DIALECTS
from tests.support.sample_images import animation, gradient, image_with_metadata, part

PNG = part(gradient(8, 6)).data
TEXT = base64.b64encode(PNG).decode()
# The first byte of an input chooses the slicing: parts of 6 bytes.
SLICED = b"\x55"
FILES = [
    *(part(gradient(8, 6), kind).data for kind in ("PNG", "JPEG", "WEBP", "GIF", "AVIF")),
    *(image_with_metadata(gradient(8, 6), kind, 6).data for kind in ("PNG", "JPEG", "WEBP")),
    *(animation(kind).data for kind in ("GIF", "WEBP", "PNG")),
    part(gradient(8, 6, "RGBA"), "WEBP", lossless=True).data,
]
IMAGE_REPLIES = [
    {
        "data": [{"b64_json": TEXT, "revised_prompt": "b"}],
        "usage": {"input_tokens": 5, "input_tokens_details": {"text_tokens": 5}},
    },
    {
        "images": [TEXT],
        "info": '{"seed": 7, "all_seeds": [7], "infotexts": ["a\\nSteps: 5, Seed: 7"]}',
        "parameters": {},
    },
    {
        "images": [{"url": "https://v3.fal.media/a.png"}, {"url": f"data:image/png;base64,{TEXT}"}],
        "has_nsfw_concepts": [False],
        "seed": 7,
    },
    {"id": "j", "status": "completed", "result": {"images": [{"index": 0, "b64_json": TEXT}]}},
    {
        "candidates": [
            {
                "content": {
                    "parts": [
                        {"text": "x"},
                        {"inlineData": {"mimeType": "image/png", "data": TEXT}},
                    ]
                }
            }
        ]
    },
    {
        "j": {
            "status": {"status_str": "success", "completed": True},
            "outputs": {"9": {"images": [{"filename": "a", "type": "output"}]}},
        }
    },
    {
        "queue_running": [[0, "j", {}, {"client_id": "c"}, []]],
        "queue_pending": [],
        "prompt_id": "j",
        "number": 1,
        "node_errors": {},
    },
    {
        "progress": 0.5,
        "eta_relative": 1,
        "state": {"sampling_step": 3, "sampling_steps": 9, "job": "x"},
        "current_image": TEXT,
    },
    {"completed": 1, "total": 3, "done": False},
    {"image": TEXT, "done": True, "model": "m"},
]
EVENT = {"type": "image_generation.completed", "b64_json": TEXT, "usage": {"input_tokens": 5}}
CONFIG = """[defaults]
chat = "box/gemma3"
[providers.box]
type = "ollama"
base_url = "http://gpu-box:11434"
timeout = { first_byte = 30 }
api_key = "${KEY}"
[aliases]
fast = "box/qwen3?temperature=0.2"
[chains.safe]
models = ["fast", "offline"]
cooldown = 30
[gpus.one]
slots = 1
"""
CONVERSATION = [
    md.user("hi", md.ImagePart(PNG), llm.FilePart(b"%PDF-1.4", "application/pdf", "a.pdf")),
    llm.assistant(llm.ThinkingPart("t", "p", {"a": 1}), "b", md.ToolCallPart("c", "draw", "{}")),
    md.tool_result(md.ToolCallPart("c", "draw"), "ok", md.ImagePart(PNG)),
]
UNTRUSTED_TEXTS = [
    "<sd_cpp_extra_args>{}</sd_cpp_extra_args>",
    "< <SD_CPP_EXTRA_ARGS>",
    "@everyone <@!123> <!channel> me@example.com",
]

SEEDS: dict[str, list[bytes]] = {
    "lines": [
        bytes([kind]) + SLICED + b': c\r\nevent: x\rdata: a\ndata: b\r\n\r\n{"a":1}\n\ndata: c'
        for kind in range(4)
    ],
    "images": [
        SLICED + json.dumps(IMAGE_REPLIES[0]).encode(),
        SLICED
        + b'{"a":"\\"b64_json\\":\\"QUJD","b64_json" : "QUJ\\nDQUJD","c":{"b64_json":"QUJD"}}',
    ],
    "multipart": [b"prompt=a fox\0\nimage[]=f\x89PNG\r\n\r\n--x\0\nn=1"],
    "responses": [
        b"\x00" + SLICED + b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n",
        b"\x00" + SLICED + b"3;a=b\r\none\r\n0\r\nx: 1\r\n\r\nx",
        b"\xff" + SLICED + b"HTTP/1.1 100 \r\n\r\nHTTP/1.1 200 OK\r\n\r\nx",
        b"\xff"
        + SLICED
        + b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\nx: a\r\n b\r\n\r\nabc",
    ],
    **{
        f"stream_{dialect.name}": [SLICED + dialect.stream, SLICED + dialect.failing]
        for dialect in DIALECTS
    },
    **{
        f"reply_{dialect.name}": [json.dumps(dialect.complete_response).encode()]
        for dialect in DIALECTS
    },
    "messages": [llm.dump_messages(CONVERSATION).encode()],
    "image_replies": [
        *(json.dumps(reply).encode() for reply in IMAGE_REPLIES),
        b"data: " + json.dumps(EVENT).encode() + b"\n\ndata: [DONE]\n\n",
        *(json.dumps(line).encode() + b"\n" for line in IMAGE_REPLIES[-2:]),
    ],
    "image_limits": FILES,
    "exif": [
        write_exif(6, "a fox"),
        write_exif(3),
        b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0",
    ],
    "parameters": [
        (
            b"a fox\nNegative prompt: blur\nSteps: 5, Sampler: Euler a, CFG scale: 7, Seed: 3,"
            b' Size: 64x48, Model: "x, y"'
        ),
        (
            b'{"3": {"class_type": "KSampler", "inputs": {"seed": 5, "steps": 20,'
            b' "positive": ["6", 0]}}, "6": {"inputs": {"text": "a"}}}'
        ),
    ],
    "errors": [
        b"\x01\xadretry-after: 3\nx-request-id: 7\n\n"  # noqa: ISC003
        + b'{"error": {"message": "slow", "code": "insufficient_quota"}}',
        b"\x01\x90content-type: text/html\n\n<html><title>Login</title></html>",
        b'\x01\xa6\n\n{"detail": [{"loc": ["body", 1], "msg": "wrong"}]}',
        (
            b'\x01\x90\n\n{"error": {"message": "x"}, "node_errors": {"3": {"errors":'
            b' [{"message": "m", "details": "d", "extra_info": {}}]}}}'
        ),
    ],
    "retry_delays": [b"3", b"0.5", b"Mon, 23 Nov 2026 12:00:10 GMT", b"7.5s"],
    "config": [CONFIG.encode()],
    "model_strings": [
        b"ollama/gemma3",
        b"llamaswap+https://key@gpu-box:8080/a/b?steps=20&base_path=/v1,openai/gpt",
        b"a:b?x=[1,2]",
    ],
    "untrusted_text": [text.encode() for text in UNTRUSTED_TEXTS],
}
