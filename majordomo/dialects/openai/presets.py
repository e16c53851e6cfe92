"""Servers compatible with OpenAI's chat completions: their addresses and their deviations.

Sources: the providers' documentation pages, pydantic-ai at 4fda389, any-llm at f949923, vercel/ai
at ed857f5, and recorded traffic of Groq, Mistral, OpenRouter, DeepSeek and vLLM.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from majordomo.dialects.openai.chat import OpenAIChatCodec


@dataclass(frozen=True, slots=True)
class Preset:
    """The defaults for one server."""

    base_url: str
    """Base URL of the API."""
    key_variable: str
    """Environment variable with the API key."""
    codec: OpenAIChatCodec = field(default_factory=OpenAIChatCodec)
    """Codec with the deviations of this server."""
    local: bool = False
    """Whether it is a self-hosted server: it needs no key, and calls wait while a model loads."""


PRESETS = {
    # It also serves OpenAI's models, whose output schemas need an object at the root.
    "openrouter": Preset(
        "https://openrouter.ai/api/v1",
        "OPENROUTER_API_KEY",
        OpenAIChatCodec(
            reasoning_object=True, thinking_field="reasoning_details", object_root=True
        ),
    ),
    "groq": Preset(
        "https://api.groq.com/openai/v1", "GROQ_API_KEY", OpenAIChatCodec(extensions=False)
    ),
    # Unknown fields are rejected (422); usage is sent without being requested.
    "mistral": Preset(
        "https://api.mistral.ai/v1",
        "MISTRAL_API_KEY",
        OpenAIChatCodec(
            required="any",
            seed_field="random_seed",
            extensions=False,
            short_ids=True,
            stream_usage=False,
        ),
    ),
    "deepseek": Preset(
        "https://api.deepseek.com",
        "DEEPSEEK_API_KEY",
        OpenAIChatCodec(schema_form="prompt", thinking_field="reasoning_content", extensions=False),
    ),
    "xai": Preset("https://api.x.ai/v1", "XAI_API_KEY", OpenAIChatCodec(extensions=False)),
    "together": Preset("https://api.together.xyz/v1", "TOGETHER_API_KEY"),
    "vllm": Preset(
        "http://localhost:8000/v1",
        "VLLM_API_KEY",
        OpenAIChatCodec(thinking_field="reasoning"),
        local=True,
    ),
    "llamacpp": Preset("http://localhost:8080/v1", "LLAMA_API_KEY", local=True),
    "lmstudio": Preset("http://localhost:1234/v1", "LM_API_TOKEN", local=True),
}
