"""majordomo, used as its documentation shows."""

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
        self._image_model = self._ollama = self._queued = None

    async def __aenter__(self):
        return self

    async def __aexit__(self, *raised):
        for provider in (self._chat, self._image_model, self._ollama, self._queued):
            if provider is not None:
                await provider.aclose()

    async def reply(self, model):
        reply = await self._chat.model(model).generate("hi")
        return reply.text

    async def deltas(self, model, on_first=None):
        return await self._words(self._chat.model(model), on_first)

    async def lines(self, model, on_first=None):
        if self._ollama is None:
            self._ollama = self._md.Ollama(self._url)
        return await self._words(self._ollama.model(model), on_first)

    async def _words(self, model, on_first):
        words = []
        async with model.stream("hi") as stream:
            async for text in stream.text_stream:
                if on_first and not words:
                    on_first()
                words.append(text)
        return len(words)

    async def image(self, model):
        if self._image_model is None:
            self._image_model = self._md.LlamaSwap(self._url)
        result = await self._image_model.image_model(model).generate("a cat")
        return len(result.image.data)

    async def turn(self, images):
        question = self._md.user("look", *(self._md.ImagePart(image) for image in images))
        reply = await self._chat.model("m").generate([question])
        return reply.text

    def chain(self, model):
        chain = self._md.Chain([self._chat.model(model), self._chat.model(model)])

        async def ask():
            return (await chain.generate("hi")).text

        return ask

    def queue(self, slots, model):
        self._queued = self._md.OpenAICompatible(self._url + "/v1", max_concurrency=slots)
        queued = self._queued.model(model)

        async def ask(number):
            return (await queued.generate("hi", self._md.with_user_id(f"user {number}"))).text

        return ask

    async def tools(self, turns, shout):
        reply = await self._md.run_tools(
            self._chat.model("tools"), "hi", tools=[shout], max_turns=turns
        )
        return reply.text

    def conversation(self, history):
        """`history` has tuples of role, text and optionally an image."""
        md, chat = self._md, self._chat.model("m")
        messages = [
            md.assistant(text) if role == "assistant" else md.user(text, *map(md.ImagePart, more))
            for role, text, *more in history
        ]

        async def say(text):
            messages.append(md.user(text))
            reply = await chat.generate(messages)
            messages.append(reply.message)
            return reply.text

        return say

    def resize(self, data, fast):
        from majordomo.imaging import Convert, Recipe, Resize, apply

        return apply(
            self._md.ImagePart(data), Recipe(Resize(512, fast=fast), Convert("jpeg", quality=85))
        ).data

    def strip(self, data):
        from majordomo.imaging import Sanitize, apply

        return apply(self._md.ImagePart(data), Sanitize()).data

    async def derive(self, images):
        import asyncio

        from majordomo.imaging import STANDARD_SET, derive_async

        derived = await asyncio.gather(
            *(derive_async(self._md.ImagePart(data), STANDARD_SET) for data in images)
        )
        return [len(files) for files in derived]


if __name__ == "__main__":
    measure.main(load, Client, image_model)
