"""litellm: `acompletion` over openai's protocol without retries.

It uses its built-in price list, so that nothing is fetched.
"""

import os

import measure

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"


def load():
    import litellm  # noqa: F401


class Client:
    def __init__(self, url):
        import base64

        import litellm

        self._litellm = litellm
        self._more = {"api_base": url + "/v1", "api_key": "none", "max_retries": 0, "timeout": 600}
        self._base64 = base64

    async def __aenter__(self):
        return self

    async def __aexit__(self, *raised):
        await self._litellm.close_litellm_async_clients()

    async def _ask(self, model, content):
        messages = [{"role": "user", "content": content}]
        reply = await self._litellm.acompletion(
            model="openai/" + model, messages=messages, **self._more
        )
        return reply.choices[0].message.content

    async def reply(self, model):
        return await self._ask(model, "hi")

    async def deltas(self, model):
        words = []
        messages = [{"role": "user", "content": "hi"}]
        async for event in await self._litellm.acompletion(
            model="openai/" + model, messages=messages, stream=True, **self._more
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
