"""majordomo, as its users write it."""

import measure


def load():
    import majordomo  # noqa: F401


def image_model(url):
    import majordomo as md

    md.LlamaSwap(url).image_model("m")


class Client:
    def __init__(self, url):
        import majordomo as md

        self._md = md
        self._chat = md.OpenAICompatible(url + "/v1")
        self._url = url
        self._painter = self._ollama = None

    async def __aenter__(self):
        return self

    async def __aexit__(self, *raised):
        for provider in (self._chat, self._painter, self._ollama):
            if provider is not None:
                await provider.aclose()

    async def reply(self, model):
        reply = await self._chat.model(model).generate("hi")
        return reply.text

    async def deltas(self, model):
        return await self._words(self._chat.model(model))

    async def lines(self, model):
        if self._ollama is None:
            self._ollama = self._md.Ollama(self._url)
        return await self._words(self._ollama.model(model))

    async def _words(self, model):
        from majordomo.llm import TextDelta

        async with model.stream("hi") as stream:
            words = [event.text async for event in stream if isinstance(event, TextDelta)]
        return len(words)

    async def picture(self, model):
        if self._painter is None:
            self._painter = self._md.LlamaSwap(self._url)
        result = await self._painter.image_model(model).generate("a cat")
        return len(result.image.data)

    async def turn(self, pictures):
        question = self._md.user("look", *(self._md.ImagePart(picture) for picture in pictures))
        reply = await self._chat.model("m").generate([question])
        return reply.text


if __name__ == "__main__":
    measure.main(load, Client, image_model)
