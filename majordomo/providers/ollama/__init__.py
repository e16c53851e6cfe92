"""Ollama: chat, images, embeddings and model management over its native API."""

from majordomo.providers.ollama.provider import Ollama

__all__ = ["Ollama"]
