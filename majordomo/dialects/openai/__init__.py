"""OpenAI's APIs and the servers compatible with them."""
