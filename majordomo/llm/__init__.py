"""Chat: parts, messages, requests, replies, events and the interfaces. Performs no I/O."""

from majordomo.errors import CallWarning
from majordomo.llm import events, options
from majordomo.llm.embeddings import EmbeddingModel, Embeddings
from majordomo.llm.events import *  # noqa: F403 - the module has an `__all__`
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
from majordomo.llm.model import EventSource, Model, ModelInfo, Provider, Stream, SyncStream
from majordomo.llm.options import *  # noqa: F403 - the module has an `__all__`
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
    "EmbeddingModel",
    "Embeddings",
    "EventSource",
    "FilePart",
    "FinishReason",
    "ImagePart",
    "Message",
    "Model",
    "ModelInfo",
    "Option",
    "Overrides",
    "Part",
    "Provider",
    "Reply",
    "Request",
    "Stream",
    "SyncStream",
    "TextPart",
    "ThinkingPart",
    "Tool",
    "ToolCallPart",
    "ToolContext",
    "ToolResultPart",
    "Usage",
    "assistant",
    "dump_messages",
    "load_messages",
    "system",
    "tool_result",
    "user",
    "user_parts",
]
__all__ += events.__all__
__all__ += options.__all__
