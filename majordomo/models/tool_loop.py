"""The tool loop: ask, run what the model calls, answer it, ask again. Over any chat model; one implementation for all colors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import replace
from typing import Any, Unpack, cast

from anyio import create_task_group, move_on_after, to_thread

from majordomo import imagegen, llm
from majordomo.concurrency import portal
from majordomo.concurrency.event_stream import EventStream, SyncEventStream
from majordomo.concurrency.task_stream import TaskStream
from majordomo.errors import (
    CallWarning,
    DeadlineExceededError,
    FailedAttempt,
    InvalidRequestError,
    MajordomoError,
)
from majordomo.llm.events import ToolReturned
from majordomo.llm.messages import as_messages
from majordomo.llm.model import Messages
from majordomo.llm.parts import FilePart, ImagePart, TextPart, ToolCallPart, ToolResultPart
from majordomo.llm.reply import Usage, empty_reply
from majordomo.llm.request import LoopOverrides
from majordomo.llm.tools import Tool, ToolContext, as_tool
from majordomo.validation import as_tuple, check_number

Emit = Callable[[llm.ChatEvent], None]
MAX_RESULT_CHARACTERS = 1_000_000  # characters of what a tool answers; more is cut, and says so


async def run_tools(
    model: llm.Model,
    messages: Messages,
    *options: llm.Option,
    tools: Sequence[Tool | Callable[..., Any]],
    max_turns: int = 8,
    timeout: float | None = None,
    context: Any = None,
    **overrides: Unpack[LoopOverrides],
) -> llm.Reply:
    """The model's last answer, after it has called tools as often as it wished.

    tools: typed functions (sync ones run in a worker thread) or `Tool` values; they return text, images, files, a list of these, or
    anything that becomes JSON. Calls of one answer run side by side. A tool that raises, arguments that do not fit and names nobody
    knows go back to the model as an error. A call of a `Tool` without a function ends the loop: its calls are yours to answer.

    max_turns: answers of the model in all, 1 to 1,000; the last one is asked without a choice of tools, and if it still calls one the
    reply has a warning (`MAX_TURNS`). timeout: seconds for everything; DeadlineExceededError (phase total) after it. context: what a tool
    finds in its `ToolContext`. `reply.new_messages` has every message this call added, `reply.images` every image, `reply.usage` the sum.
    """
    loop = _ToolLoop(model, messages, options, tools, max_turns, timeout, context, overrides)
    return await loop.run(None)


def run_tools_sync(
    model: llm.Model,
    messages: Messages,
    *options: llm.Option,
    tools: Sequence[Tool | Callable[..., Any]],
    max_turns: int = 8,
    timeout: float | None = None,
    context: Any = None,
    **overrides: Unpack[LoopOverrides],
) -> llm.Reply:
    """The same, blocking."""
    loop = _ToolLoop(model, messages, options, tools, max_turns, timeout, context, overrides)
    return portal.run(lambda: loop.run(None))


def stream_tools(
    model: llm.Model,
    messages: Messages,
    *options: llm.Option,
    tools: Sequence[Tool | Callable[..., Any]],
    max_turns: int = 8,
    timeout: float | None = None,
    context: Any = None,
    **overrides: Unpack[LoopOverrides],
) -> AbstractAsyncContextManager[llm.Stream]:
    """The loop while it happens: the events of every answer, `ImageReady` for a tool's images, `ToolReturned` for every tool, one
    `Done`."""
    loop = _ToolLoop(model, messages, options, tools, max_turns, timeout, context, overrides)
    return cast(
        "AbstractAsyncContextManager[llm.Stream]", EventStream(lambda: _ToolLoopSource(loop))
    )


def stream_tools_sync(
    model: llm.Model,
    messages: Messages,
    *options: llm.Option,
    tools: Sequence[Tool | Callable[..., Any]],
    max_turns: int = 8,
    timeout: float | None = None,
    context: Any = None,
    **overrides: Unpack[LoopOverrides],
) -> AbstractContextManager[llm.SyncStream]:
    """The same, blocking."""
    loop = _ToolLoop(model, messages, options, tools, max_turns, timeout, context, overrides)
    return cast(
        "AbstractContextManager[llm.SyncStream]", SyncEventStream(lambda: _ToolLoopSource(loop))
    )


def image_tool(
    image_model: imagegen.Model,
    *options: imagegen.Option,
    name: str = "draw_image",
    description: str = "Draw an image and show it to the user. Describe everything that should be seen in it.",
) -> Tool:
    """A tool by which a chat model draws with `painter`. The image goes to the model as an image, and stands in `reply.images`."""

    async def draw(prompt: str, context: ToolContext) -> list[ImagePart | str]:
        whose = (
            [llm.with_user_id(context.user_id)] if context.user_id else []
        )  # the image is drawn for whom the chat speaks to
        result = await image_model.generate(prompt, *whose, *options)
        return [*(f"warning: {warning.message}" for warning in result.warnings), *result.images]

    tool = as_tool(draw)
    return replace(tool, name=name, description=description)


class _ToolLoop:
    def __init__(
        self,
        model: llm.Model,
        messages: Messages,
        options: Sequence[llm.Option],
        tools: Sequence[Tool | Callable[..., Any]],
        max_turns: int,
        timeout: float | None,
        context: Any,
        overrides: LoopOverrides,
    ) -> None:
        check_number("max_turns", max_turns, 1, 1000, whole=True)
        check_number("timeout", timeout, 0, 1e9)
        self._model = model
        self._given = as_messages(messages)
        self._options = options
        self._tools = {tool.name: tool for tool in map(as_tool, as_tuple(tools, "tools"))}
        if not self._tools:
            raise InvalidRequestError("tools is empty", field="tools")
        if len(self._tools) != len(as_tuple(tools, "tools")):
            raise InvalidRequestError("two tools have the same name", field="tools")
        self._max_turns = max_turns
        self._timeout = timeout
        self._context = context
        self._overrides = overrides
        self._client = llm.Request(self._given).apply(*options).override(**overrides).user_id
        self._added: list[llm.Message] = []
        self._usages: list[Usage] = []
        self._warnings: list[CallWarning] = []
        self._tried: list[FailedAttempt] = []
        self.reply = empty_reply(model.id, model.provider)

    async def run(self, emit: Emit | None) -> llm.Reply:
        if self._timeout is None:
            return await self._turns(emit)
        with move_on_after(self._timeout):
            return await self._turns(emit)
        raise DeadlineExceededError(
            f"the tool loop took longer than the limit of {self._timeout:g} s", phase="total"
        ).with_context(self._model.provider, self._model.id)

    async def _turns(self, emit: Emit | None) -> llm.Reply:
        for turn in range(1, self._max_turns + 1):
            overrides: llm.Overrides = {**self._overrides, "tools": tuple(self._tools.values())}
            if turn == self._max_turns and turn > 1:
                overrides["tool_choice"] = "none"
            elif turn > 1 and overrides.get("tool_choice") not in (None, "auto", "none"):
                overrides["tool_choice"] = (
                    None  # it was about the first answer: a loop that must call a tool never ends
                )
            answered = await self._ask([*self._given, *self._added], overrides, emit)
            self._added.append(answered.message)
            self._usages.append(answered.usage)
            self._warnings += answered.warnings
            self._tried += answered.failed_attempts
            self._note(answered)
            calls = answered.tool_calls
            if not calls or any(
                call.name in self._tools and self._tools[call.name].function is None
                for call in calls
            ):
                break
            if turn == self._max_turns:
                self._warnings.append(
                    CallWarning(
                        "MAX_TURNS",
                        f"after {turn} answers the model still calls tools",
                        "max_turns",
                    )
                )
                break
            self._added += await self._run_calls(calls, emit)
            self._note(answered)
        self._note(answered)
        if emit is not None:
            emit(llm.Done(self.reply))
        return self.reply

    def _note(self, answered: llm.Reply) -> None:
        self.reply = replace(
            answered,
            new_messages=tuple(self._added),
            usage=Usage.sum(self._usages),
            warnings=tuple(self._warnings),
            failed_attempts=tuple(self._tried),
        )

    async def _ask(
        self, messages: list[llm.Message], overrides: llm.Overrides, emit: Emit | None
    ) -> llm.Reply:
        if emit is None:
            return await self._model.generate(messages, *self._options, **overrides)
        async with self._model.stream(messages, *self._options, **overrides) as stream:
            async for event in stream:
                if not isinstance(event, llm.Done):
                    emit(event)
            return stream.reply

    async def _run_calls(
        self, calls: Sequence[ToolCallPart], emit: Emit | None
    ) -> list[llm.Message]:
        results: dict[int, ToolResultPart] = {}
        so_far = (*self._given, *self._added)

        async def run(place: int, call: ToolCallPart) -> None:
            result = results[place] = await self._run(call, so_far)
            if emit is not None:
                for part in result.parts:
                    if isinstance(part, ImagePart):
                        emit(llm.ImageReady(part))
                emit(ToolReturned(call, result))

        async with (
            create_task_group() as group
        ):  # no exception leaves `run`: what a tool raises is its result
            for place, call in enumerate(calls):
                group.start_soon(run, place, call)
        return [llm.Message("tool", (results[place],)) for place in range(len(calls))]

    async def _run(self, call: ToolCallPart, so_far: tuple[llm.Message, ...]) -> ToolResultPart:
        try:
            tool = self._tools.get(call.name)
            if tool is None or tool.function is None:
                raise InvalidRequestError(
                    f"there is no tool {call.name!r}; there are: {', '.join(self._tools)}",
                    field="tools",
                )
            arguments = tool.read_arguments(call)
            if tool.context:
                arguments[tool.context] = ToolContext(call, so_far, self._context, self._client)
            returned = await _called(tool.function, arguments)
            return ToolResultPart(call.id, call.name, _parts(returned))
        except MajordomoError as error:
            return ToolResultPart(call.id, call.name, (TextPart(error.message),), is_error=True)
        except Exception as error:
            return ToolResultPart(
                call.id,
                call.name,
                (TextPart(f"{type(error).__name__}: {error}"[:2000]),),
                is_error=True,
            )


class _ToolLoopSource:
    """A loop in a task of its own, told while it happens."""

    def __init__(self, loop: _ToolLoop) -> None:
        self._loop = loop
        self._telling: TaskStream[llm.ChatEvent, llm.Reply] = TaskStream(loop.run)

    @property
    def reply(self) -> llm.Reply:
        return self._loop.reply

    async def next_events(self) -> Sequence[llm.ChatEvent]:
        events = await self._telling.next_events()
        if not events:
            _ = self._telling.result  # raises what the loop raised
        return events

    async def aclose(self) -> None:
        await self._telling.aclose()


async def _called(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004
    ):
        return await function(**arguments)
    # A thread cannot be stopped; a call that is given up goes on without it
    returned = await to_thread.run_sync(lambda: function(**arguments), abandon_on_cancel=True)
    return await returned if inspect.isawaitable(returned) else returned


def _parts(returned: Any) -> tuple[TextPart | ImagePart | FilePart, ...]:
    match returned:
        case None:
            return (TextPart("done"),)
        case str():
            return (
                TextPart(
                    returned
                    if len(returned) <= MAX_RESULT_CHARACTERS
                    else f"{returned[:MAX_RESULT_CHARACTERS]} (cut)"
                ),
            )
        case TextPart() | ImagePart() | FilePart():
            return (returned,)
        case imagegen.Result():
            return returned.images
        case list() | tuple() if any(
            isinstance(item, (TextPart, ImagePart, FilePart, imagegen.Result)) for item in returned
        ):
            return tuple(part for item in returned for part in _parts(item))
    from pydantic_core import to_json

    return _parts(to_json(returned).decode())
