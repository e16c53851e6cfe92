"""anthropic: the official client without retries, with a long timeout, over its own protocol."""

import measure


def load():
    import anthropic  # noqa: F401


class Client:
    def __init__(self, url):
        import base64

        import anthropic

        self._client = anthropic.AsyncAnthropic(
            base_url=url, api_key="none", max_retries=0, timeout=600
        )
        self._base64 = base64

    async def __aenter__(self):
        return self

    async def __aexit__(self, *raised):
        await self._client.close()

    async def _ask(self, model, content):
        messages = [{"role": "user", "content": content}]
        reply = await self._client.messages.create(model=model, max_tokens=1000, messages=messages)
        return reply.content[0].text

    async def reply(self, model):
        return await self._ask(model, "hi")

    async def deltas(self, model):
        messages = [{"role": "user", "content": "hi"}]
        stream = await self._client.messages.create(
            model=model, max_tokens=1000, messages=messages, stream=True
        )
        words = [
            event.delta.text
            async for event in stream
            if event.type == "content_block_delta" and event.delta.type == "text_delta"
        ]
        return len(words)

    async def turn(self, images):
        content = [{"type": "text", "text": "look"}]
        for image in images:
            source = {
                "type": "base64",
                "media_type": "image/png",
                "data": self._base64.b64encode(image).decode(),
            }
            content.append({"type": "image", "source": source})
        return await self._ask("m", content)


if __name__ == "__main__":
    measure.main(load, Client)
