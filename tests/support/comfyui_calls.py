"""Calls of the ComfyUI provider that several test modules make."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio import to_thread

import majordomo as md
from majordomo import imagegen
from majordomo.dialects.comfyui.templates import template

CUSTOM_WORKFLOW = template().graph | {
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "model.safetensors"}}
}
FOX: dict[str, Any] = {"positive": "a fox", "seed": 7, "width": 64, "height": 64, "steps": 3}


def custom_workflow(**inputs: Any) -> dict[str, Any]:
    """Return a custom workflow with these inputs of its sampler."""
    workflow = copy.deepcopy(CUSTOM_WORKFLOW)
    workflow["3"]["inputs"] |= {"steps": 3, **inputs}
    return workflow


async def wait_in_thread(done: Callable[..., bool], *args: Any) -> None:
    """Wait in a thread for an event of the server, with its own time limit."""
    assert await to_thread.run_sync(done, *args)


@asynccontextmanager
async def running_call(
    model: imagegen.Model, **fields: Any
) -> AsyncIterator[tuple[list[Any], anyio.CancelScope]]:
    """Run a call in the background.

    Yields its outcome, which is filled after the block, and its cancel scope.
    """
    outcome: list[Any] = []

    async def call() -> None:
        try:
            outcome.append(await model.generate("a fox", seed=7, size="64x64", steps=3, **fields))
        except md.MajordomoError as error:
            outcome.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        yield outcome, group.cancel_scope
