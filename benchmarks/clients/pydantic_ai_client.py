"""pydantic-ai: an agent over its openai model, whose client does not retry."""

import measure


def load():
    import pydantic_ai  # noqa: F401


class Client:
    def __init__(self, url):
        import pydantic_ai
        from openai import AsyncOpenAI
        from pydantic_ai.models.openai import OpenAIChatModel
        from pydantic_ai.providers.openai import OpenAIProvider

        self._ai = pydantic_ai
        self._client = AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=0, timeout=600)
        self._model = lambda name: OpenAIChatModel(
            name, provider=OpenAIProvider(openai_client=self._client)
        )
        self._agents = {}

    async def __aenter__(self):
        return self

    async def __aexit__(self, *raised):
        await self._client.close()

    def _agent(self, model):
        if model not in self._agents:
            self._agents[model] = self._ai.Agent(self._model(model))
        return self._agents[model]

    async def reply(self, model):
        return (await self._agent(model).run("hi")).output

    async def deltas(self, model):
        async with self._agent(model).run_stream("hi") as run:
            words = [text async for text in run.stream_text(delta=True, debounce_by=None)]
        return len(words)

    async def turn(self, images):
        content = [
            "look",
            *(self._ai.BinaryContent(image, media_type="image/png") for image in images),
        ]
        return (await self._agent("m").run(content)).output

    async def tools(self, turns, shout):
        if "tools" not in self._agents:
            self._agents["tools"] = self._ai.Agent(self._model("tools"), tools=[shout])
        return (await self._agents["tools"].run("hi")).output


if __name__ == "__main__":
    measure.main(load, Client)
