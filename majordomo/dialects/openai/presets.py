"""Servers that speak OpenAI's chat completions, a row each: where they are, and in what they differ.

Sources: the providers' documentation pages, pydantic-ai at 4fda389, any-llm at f949923, vercel/ai at ed857f5, and recorded traffic of Groq,
Mistral, OpenRouter, DeepSeek and vLLM.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from majordomo.dialects.openai.chat import OpenAIChatCodec


@dataclass(frozen=True, slots=True)
class Preset:
    base_url: str
    key_variable: str
    codec: OpenAIChatCodec = field(default_factory=OpenAIChatCodec)
    local: bool = False  # waits for models to load, and needs no key


PRESETS = {
    # Among much else it serves OpenAI's models, whose answers have an object at their root
    "openrouter": Preset(
        "https://openrouter.ai/api/v1",
        "OPENROUTER_API_KEY",
        OpenAIChatCodec(
            reasoning_object=True, thinking_field="reasoning_details", object_root=True
        ),
    ),
    "groq": Preset("https://api.groq.com/openai/v1", "GROQ_API_KEY", OpenAIChatCodec(top_k=False)),
    # Unknown fields are refused (422); usage comes without being asked for
    "mistral": Preset(
        "https://api.mistral.ai/v1",
        "MISTRAL_API_KEY",
        OpenAIChatCodec(
            required="any",
            seed_field="random_seed",
            top_k=False,
            short_ids=True,
            stream_usage=False,
        ),
    ),
    "deepseek": Preset(
        "https://api.deepseek.com",
        "DEEPSEEK_API_KEY",
        OpenAIChatCodec(schema_form="words", thinking_field="reasoning_content", top_k=False),
    ),
    "xai": Preset("https://api.x.ai/v1", "XAI_API_KEY", OpenAIChatCodec(top_k=False)),
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
