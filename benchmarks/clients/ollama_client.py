"""ollama: the official client, with its own protocol over the same server."""

import measure


def load():
    import ollama  # noqa: F401


class Client:
    def __init__(self, url):
        import ollama

        self._client = ollama.AsyncClient(host=url)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *raised):
        await self._client.close()

    async def _ask(self, model, message):
        reply = await self._client.chat(model=model, messages=[message])
        return reply.message.content

    async def reply(self, model):
        return await self._ask(model, {"role": "user", "content": "hi"})

    async def lines(self, model, on_first=None):
        parts = await self._client.chat(
            model=model, messages=[{"role": "user", "content": "hi"}], stream=True
        )
        words = []
        async for part in parts:
            text = part.message.content
            if text:
                if on_first and not words:
                    on_first()
                words.append(text)
        return len(words)

    async def turn(self, images):
        return await self._ask("m", {"role": "user", "content": "look", "images": images})


if __name__ == "__main__":
    measure.main(load, Client)
