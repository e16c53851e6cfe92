"""The tool loop: call the model, run the tools it calls, send their results, and repeat.

It works over any chat model, and the sync and async functions share one implementation.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Unpack

from anyio import create_task_group, move_on_after, to_thread

from majordomo import imagegen, llm
from majordomo.concurrency import portal
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
from majordomo.llm.options import LoopOverrides
from majordomo.llm.parts import FilePart, ImagePart, TextPart, ToolCallPart, ToolResultPart
from majordomo.llm.reply import Usage, empty_reply
from majordomo.llm.tools import Tool, ToolContext, as_tool
from majordomo.models.call_context import Emit
from majordomo.validation import as_tuple, check_number

# A longer text from a tool is cut and marked.
MAX_RESULT_CHARACTERS = 1_000_000
MAX_ERROR_CHARACTERS = 2000


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
    """Call the model, run the tools that it calls, and repeat until it answers without a call.

    Args:
        model: The chat model to call.
        messages: The conversation, as for `llm.Model.generate`.
        *options: Options of every call to the model.
        tools: Typed functions or `Tool` values. They return text, an image, a file, an
            `imagegen.Result`, a list of these, or anything that can be encoded as JSON. Sync
            functions run in a worker thread; the calls of one reply run concurrently. An exception
            in a tool, arguments that do not match, and an unknown tool name are sent to the model
            as an error. A call of a `Tool` without a function ends the loop: the caller has to
            answer its calls.
        max_turns: Largest number of replies of the model, 1 to 1,000. The last one is requested
            with `tool_choice="none"`; if it calls a tool anyway, the reply has a warning
            (`MAX_TURNS`).
        timeout: Seconds for the whole loop; None for no limit.
        context: A value for tools, as `ToolContext.context`.
        **overrides: Fields of the request, as for `llm.Model.generate`.

    Returns:
        The last reply of the model. Its `new_messages` are all messages that this call added, its
        `images` are those of all of them, and its `usage` is the sum.

    Raises:
        DeadlineExceededError: With phase `total`, after `timeout`.
        InvalidRequestError: For no tools, two tools of one name, or a value out of range.

    Example:
        ```python
        reply = await md.run_tools(model, "What is 19 times 23?", tools=[multiply])
        history.extend(reply.new_messages)
        ```
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
    """Run the tool loop and return the last reply (blocking).

    The arguments, the result and the errors are those of `run_tools`.
    """
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
) -> llm.Stream:
    """Run the tool loop and stream its events.

    The arguments and errors are those of `run_tools`.

    Returns:
        The stream, to be entered with `async with`: the events of every reply, `ImageReady` for
        each image of a tool, `ToolReturned` for each call, and one `Done` with the last reply.
    """
    loop = _ToolLoop(model, messages, options, tools, max_turns, timeout, context, overrides)
    return llm.Stream(loop.source)


def stream_tools_sync(
    model: llm.Model,
    messages: Messages,
    *options: llm.Option,
    tools: Sequence[Tool | Callable[..., Any]],
    max_turns: int = 8,
    timeout: float | None = None,
    context: Any = None,
    **overrides: Unpack[LoopOverrides],
) -> llm.SyncStream:
    """Run the tool loop and stream its events (blocking). See `stream_tools`."""
    loop = _ToolLoop(model, messages, options, tools, max_turns, timeout, context, overrides)
    return llm.SyncStream(loop.source)


def image_tool(
    image_model: imagegen.Model,
    *options: imagegen.Option,
    name: str = "draw_image",
    description: str = (
        "Draw an image and show it to the user. Describe everything that should be seen in it."
    ),
) -> Tool:
    """Return a tool with which a chat model generates images.

    The image is sent to the model as an image, and is in `reply.images`. Warnings of the image
    model are sent as text.

    Args:
        image_model: The model that generates the images.
        *options: Options of every generation, for example a size.
        name: Name of the tool, as the chat model sees it.
        description: Description of the tool, as the chat model sees it.

    Example:
        ```python
        tool = md.image_tool(md.Offline().image_model("renderer"), md.with_steps(8))
        reply = await md.run_tools(model, "Draw a lighthouse.", tools=[tool])
        ```
    """

    async def generate_image(prompt: str, context: ToolContext) -> list[ImagePart | str]:
        # The image counts for the end user of the chat.
        user = [llm.with_user_id(context.user_id)] if context.user_id else []
        result = await image_model.generate(prompt, *user, *options)
        return [*(f"warning: {warning.message}" for warning in result.warnings), *result.images]

    tool = as_tool(generate_image)
    return replace(tool, name=name, description=description)


class _ToolLoop:
    """One run of the loop: the conversation so far, and the calls that extend it."""

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
        check_number("max_turns", max_turns, 1, 1000, integer=True)
        check_number("timeout", timeout, 0, 1e9)
        self._model = model
        self._messages = as_messages(messages)
        self._options = options
        self._tools = {tool.name: tool for tool in map(as_tool, as_tuple(tools, "tools"))}
        if not self._tools:
            raise InvalidRequestError(
                "tools must contain at least one tool; got none", field="tools"
            )
        if len(self._tools) != len(as_tuple(tools, "tools")):
            names = ", ".join(as_tool(tool).name for tool in as_tuple(tools, "tools"))
            raise InvalidRequestError(
                f"the names of tools must differ; got {names}"[:500], field="tools"
            )
        self._max_turns = max_turns
        self._timeout = timeout
        self._context = context
        self._overrides = overrides
        self._user_id = llm.Request(self._messages).apply(*options).override(**overrides).user_id
        self._added: list[llm.Message] = []
        self._usages: list[Usage] = []
        self._warnings: list[CallWarning] = []
        self._failed_attempts: list[FailedAttempt] = []
        self.reply = empty_reply(model.id, model.provider)

    async def run(self, emit: Emit | None) -> llm.Reply:
        """Run the loop and return the last reply; call `emit`, unless None, with each event."""
        if self._timeout is None:
            return await self._turns(emit)
        with move_on_after(self._timeout):
            return await self._turns(emit)
        raise DeadlineExceededError(
            f"the tool loop took longer than the limit of {self._timeout:g} s", phase="total"
        ).with_context(self._model.provider, self._model.id)

    def source(self) -> TaskStream[llm.ChatEvent, llm.Reply]:
        """Return the loop as the source of a stream. It runs in a task of its own."""
        return TaskStream(self.run, partial=lambda: self.reply)

    async def _turns(self, emit: Emit | None) -> llm.Reply:
        for turn in range(1, self._max_turns + 1):
            overrides: llm.Overrides = {**self._overrides, "tools": tuple(self._tools.values())}
            if turn == self._max_turns and turn > 1:
                overrides["tool_choice"] = "none"
            elif turn > 1 and overrides.get("tool_choice") not in (None, "auto", "none"):
                # It was about the first reply: a loop that must call a tool would never end.
                overrides["tool_choice"] = None
            reply = await self._call_model([*self._messages, *self._added], overrides, emit)
            self._added.append(reply.message)
            self._usages.append(reply.usage)
            self._warnings += reply.warnings
            self._failed_attempts += reply.failed_attempts
            self._update_reply(reply)
            calls = reply.tool_calls
            if not calls or any(
                call.name in self._tools and self._tools[call.name].function is None
                for call in calls
            ):
                break
            if turn == self._max_turns:
                self._warnings.append(
                    CallWarning(
                        "MAX_TURNS",
                        f"the model still calls tools after {turn} replies",
                        "max_turns",
                    )
                )
                break
            self._added += await self._run_tool_calls(calls, emit)
            self._update_reply(reply)
        self._update_reply(reply)
        if emit is not None:
            emit(llm.Done(self.reply))
        return self.reply

    def _update_reply(self, reply: llm.Reply) -> None:
        self.reply = replace(
            reply,
            new_messages=tuple(self._added),
            usage=Usage.sum(self._usages),
            warnings=tuple(self._warnings),
            failed_attempts=tuple(self._failed_attempts),
        )

    async def _call_model(
        self, messages: list[llm.Message], overrides: llm.Overrides, emit: Emit | None
    ) -> llm.Reply:
        if emit is None:
            return await self._model.generate(messages, *self._options, **overrides)
        async with self._model.stream(messages, *self._options, **overrides) as stream:
            async for event in stream:
                if not isinstance(event, llm.Done):
                    emit(event)
            return stream.reply

    async def _run_tool_calls(
        self, calls: Sequence[ToolCallPart], emit: Emit | None
    ) -> list[llm.Message]:
        results: dict[int, ToolResultPart] = {}
        history = (*self._messages, *self._added)

        async def run(index: int, call: ToolCallPart) -> None:
            result = results[index] = await self._run_tool_call(call, history)
            if emit is not None:
                for part in result.parts:
                    if isinstance(part, ImagePart):
                        emit(llm.ImageReady(part))
                emit(ToolReturned(call, result))

        # No exception leaves `run`: what a tool raises becomes its result.
        async with create_task_group() as group:
            for index, call in enumerate(calls):
                group.start_soon(run, index, call)
        return [llm.Message("tool", (results[index],)) for index in range(len(calls))]

    async def _run_tool_call(
        self, call: ToolCallPart, history: tuple[llm.Message, ...]
    ) -> ToolResultPart:
        try:
            tool = self._tools.get(call.name)
            if tool is None or tool.function is None:
                raise InvalidRequestError(
                    f"unknown tool {call.name!r}; available tools: {', '.join(self._tools)}",
                    field="tools",
                )
            arguments = tool.read_arguments(call)
            if tool.context:
                arguments[tool.context] = ToolContext(call, history, self._context, self._user_id)
            returned = await _call_function(tool.function, arguments)
            return ToolResultPart(call.id, call.name, _as_parts(returned))
        except MajordomoError as error:
            return ToolResultPart(call.id, call.name, (TextPart(error.message),), is_error=True)
        except Exception as error:
            return ToolResultPart(
                call.id,
                call.name,
                (TextPart(f"{type(error).__name__}: {error}"[:MAX_ERROR_CHARACTERS]),),
                is_error=True,
            )


async def _call_function(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 (a coroutine function as `__call__`)
    ):
        return await function(**arguments)
    # A thread cannot be stopped; when the call is cancelled, the thread is left to end by itself.
    returned = await to_thread.run_sync(lambda: function(**arguments), abandon_on_cancel=True)
    return await returned if inspect.isawaitable(returned) else returned


def _as_parts(returned: Any) -> tuple[TextPart | ImagePart | FilePart, ...]:
    """Return the value that a tool returned as parts of a tool result."""
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
            return tuple(part for item in returned for part in _as_parts(item))
    from pydantic_core import to_json

    return _as_parts(to_json(returned).decode())
