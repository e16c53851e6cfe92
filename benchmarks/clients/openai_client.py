"""openai: the official client without retries, with a long timeout."""

import measure


def load():
    import openai  # noqa: F401


class Client:
    def __init__(self, url):
        import base64

        import openai

        self._client = openai.AsyncOpenAI(
            base_url=url + "/v1", api_key="none", max_retries=0, timeout=600
        )
        self._base64 = base64

    async def __aenter__(self):
        return self

    async def __aexit__(self, *raised):
        await self._client.close()

    async def _ask(self, model, content):
        reply = await self._client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": content}]
        )
        return reply.choices[0].message.content

    async def reply(self, model):
        return await self._ask(model, "hi")

    async def deltas(self, model, on_first=None):
        words = []
        messages = [{"role": "user", "content": "hi"}]
        async for event in await self._client.chat.completions.create(
            model=model, messages=messages, stream=True
        ):
            text = event.choices[0].delta.content
            if text:
                if on_first and not words:
                    on_first()
                words.append(text)
        return len(words)

    async def image(self, model):
        reply = await self._client.images.generate(model=model, prompt="a cat")
        return len(self._base64.b64decode(reply.data[0].b64_json))

    async def turn(self, images):
        content = [{"type": "text", "text": "look"}]
        for image in images:
            url = f"data:image/png;base64,{self._base64.b64encode(image).decode()}"
            content.append({"type": "image_url", "image_url": {"url": url}})
        return await self._ask("m", content)

    def queue(self, slots, model):
        import asyncio

        free = asyncio.Semaphore(slots)

        async def ask(number):
            async with free:
                return await self.reply(model)

        return ask

    async def tools(self, turns, shout):
        import json

        parameters = {
            "type": "object",
            "properties": {"text": {"type": "string"}},
            "required": ["text"],
        }
        tool = {
            "type": "function",
            "function": {"name": "shout", "description": shout.__doc__, "parameters": parameters},
        }
        messages = [{"role": "user", "content": "hi"}]
        while True:
            reply = await self._client.chat.completions.create(
                model="tools", messages=messages, tools=[tool]
            )
            message = reply.choices[0].message
            if not message.tool_calls:
                return message.content
            messages.append(message)
            for call in message.tool_calls:
                result = shout(**json.loads(call.function.arguments))
                messages.append({"role": "tool", "tool_call_id": call.id, "content": result})

    def conversation(self, history):
        messages = []
        for role, text, *images in history:
            urls = [
                f"data:image/png;base64,{self._base64.b64encode(image).decode()}"
                for image in images
            ]
            parts = [
                {"type": "text", "text": text},
                *({"type": "image_url", "image_url": {"url": url}} for url in urls),
            ]
            messages.append({"role": role, "content": parts if images else text})

        async def say(text):
            messages.append({"role": "user", "content": text})
            reply = await self._client.chat.completions.create(model="m", messages=messages)
            messages.append(reply.choices[0].message)
            return reply.choices[0].message.content

        return say


if __name__ == "__main__":
    measure.main(load, Client)
