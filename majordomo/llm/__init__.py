"""Chat: parts, messages, requests, replies, events and the interfaces. Performs no I/O."""

from majordomo.backend_status import Loading, Queued
from majordomo.errors import CallWarning
from majordomo.llm import options
from majordomo.llm.embeddings import EmbeddingModel, Embeddings
from majordomo.llm.events import (
    ChatEvent,
    Done,
    ImageReady,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolCallDelta,
    ToolCallStarted,
    ToolReturned,
)
from majordomo.llm.messages import (
    Message,
    assistant,
    dump_messages,
    load_messages,
    system,
    tool_result,
    user,
    user_parts,
)
from majordomo.llm.model import ChatSource, Model, ModelInfo, Provider, Stream, SyncStream
from majordomo.llm.options import *  # noqa: F403 - the module is generated, with its own `__all__`
from majordomo.llm.options import Option, Overrides
from majordomo.llm.parts import (
    FilePart,
    ImagePart,
    Part,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
)
from majordomo.llm.reply import FinishReason, Reply, Usage
from majordomo.llm.request import Request
from majordomo.llm.tools import Tool, ToolContext

__all__ = [
    "CallWarning",
    "ChatEvent",
    "ChatSource",
    "Done",
    "EmbeddingModel",
    "Embeddings",
    "FilePart",
    "FinishReason",
    "ImagePart",
    "ImageReady",
    "Loading",
    "Message",
    "Model",
    "ModelInfo",
    "Option",
    "Overrides",
    "Part",
    "Provider",
    "Queued",
    "Reply",
    "Request",
    "Stream",
    "SyncStream",
    "TextDelta",
    "TextPart",
    "ThinkingDelta",
    "ThinkingPart",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "ToolCallPart",
    "ToolCallStarted",
    "ToolContext",
    "ToolResultPart",
    "ToolReturned",
    "Usage",
    "assistant",
    "dump_messages",
    "load_messages",
    "system",
    "tool_result",
    "user",
    "user_parts",
]
__all__ += options.__all__
