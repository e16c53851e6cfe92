"""httpx: handwritten dictionaries, default limits (100 connections, 20 kept), a long timeout."""

import base64

import measure


def load():
    import httpx  # noqa: F401


def image_model(url):
    """Import the two packages that the row compares with; there is no image model."""
    import httpx  # noqa: F401
    import pydantic  # noqa: F401


class Client:
    def __init__(self, url):
        import json

        import httpx

        self._client = httpx.AsyncClient(base_url=url, timeout=600)
        self._loads = json.loads

    async def __aenter__(self):
        return self

    async def __aexit__(self, *raised):
        await self._client.aclose()

    async def _ask(self, model, content):
        messages = [{"role": "user", "content": content}]
        reply = await self._client.post(
            "/v1/chat/completions", json={"model": model, "messages": messages}
        )
        reply.raise_for_status()
        return reply.json()["choices"][0]["message"]["content"]

    async def reply(self, model):
        return await self._ask(model, "hi")

    async def deltas(self, model, on_first=None):
        words = []
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": True}
        async with self._client.stream("POST", "/v1/chat/completions", json=body) as reply:
            async for line in reply.aiter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    text = self._loads(line[6:])["choices"][0]["delta"].get("content")
                    if text:
                        if on_first and not words:
                            on_first()
                        words.append(text)
        return len(words)

    async def lines(self, model, on_first=None):
        words = []
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": True}
        async with self._client.stream("POST", "/api/chat", json=body) as reply:
            async for line in reply.aiter_lines():
                text = self._loads(line)["message"]["content"]
                if text:
                    if on_first and not words:
                        on_first()
                    words.append(text)
        return len(words)

    async def image(self, model):
        reply = await self._client.post(
            "/v1/images/generations", json={"model": model, "prompt": "a cat"}
        )
        return len(base64.b64decode(reply.json()["data"][0]["b64_json"]))

    async def turn(self, images):
        content = [{"type": "text", "text": "look"}]
        for image in images:
            url = f"data:image/png;base64,{base64.b64encode(image).decode()}"
            content.append({"type": "image_url", "image_url": {"url": url}})
        return await self._ask("m", content)


if __name__ == "__main__":
    measure.main(load, Client, image_model)
