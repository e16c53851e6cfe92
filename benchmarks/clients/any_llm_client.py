"""any-llm: one reused client of its openai provider, without retries."""

import measure


def load():
    import any_llm  # noqa: F401


class Client:
    def __init__(self, url):
        import base64

        from any_llm import AnyLLM

        self._client = AnyLLM.create(
            "openai", api_key="none", api_base=url + "/v1", max_retries=0, timeout=600
        )
        self._base64 = base64

    async def __aenter__(self):
        return self

    async def __aexit__(self, *raised):
        pass

    async def _ask(self, model, content):
        reply = await self._client.acompletion(
            model=model, messages=[{"role": "user", "content": content}]
        )
        return reply.choices[0].message.content

    async def reply(self, model):
        return await self._ask(model, "hi")

    async def deltas(self, model):
        words = []
        messages = [{"role": "user", "content": "hi"}]
        async for event in await self._client.acompletion(
            model=model, messages=messages, stream=True
        ):
            text = event.choices[0].delta.content
            if text:
                words.append(text)
        return len(words)

    async def turn(self, images):
        content = [{"type": "text", "text": "look"}]
        for image in images:
            url = f"data:image/png;base64,{self._base64.b64encode(image).decode()}"
            content.append({"type": "image_url", "image_url": {"url": url}})
        return await self._ask("m", content)


if __name__ == "__main__":
    measure.main(load, Client)
