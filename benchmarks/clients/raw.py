"""raw: asyncio, json and handwritten HTTP. A lower bound, not a product."""

import measure


def load():
    import asyncio  # noqa: F401


class Client:
    def __init__(self, url):
        import json
        from binascii import a2b_base64, b2a_base64

        from floor import Pool

        host, port = url.removeprefix("http://").split(":")
        self._pool = Pool(host, int(port))
        self._json = json
        self._decode, self._encode = a2b_base64, b2a_base64

    async def __aenter__(self):
        return self

    async def __aexit__(self, *raised):
        self._pool.close()

    def _body(self, model, stream=False):
        return [
            self._json.dumps(
                {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": stream}
            ).encode()
        ]

    async def reply(self, model):
        body = await self._pool.request(b"/v1/chat/completions", self._body(model))
        return self._json.loads(body)["choices"][0]["message"]["content"]

    async def deltas(self, model, on_first=None):
        """Return the number of text deltas."""
        words, tail = [], b""
        loads = self._json.loads

        def on_data(data):
            nonlocal tail
            *events, tail = (tail + data).split(b"\n\n")
            for event in events:
                if event != b"data: [DONE]":
                    text = loads(event[6:])["choices"][0]["delta"].get("content")
                    if text:
                        if on_first and not words:
                            on_first()
                        words.append(text)

        await self._pool.request(b"/v1/chat/completions", self._body(model, stream=True), on_data)
        return len(words)

    async def lines(self, model, on_first=None):
        words, tail = [], b""
        loads = self._json.loads

        def on_data(data):
            nonlocal tail
            *lines, tail = (tail + data).split(b"\n")
            for line in lines:
                text = loads(line)["message"]["content"]
                if text:
                    if on_first and not words:
                        on_first()
                    words.append(text)

        await self._pool.request(b"/api/chat", self._body(model, stream=True), on_data)
        return len(words)

    async def image(self, model):
        """Return the size of the image in bytes."""
        body = await self._pool.request(
            b"/v1/images/generations",
            [self._json.dumps({"model": model, "prompt": "a cat"}).encode()],
        )
        start = body.index(b'"b64_json":"') + len(b'"b64_json":"')
        return len(self._decode(memoryview(body)[start : body.index(b'"', start)]))

    async def turn(self, images):
        """Ask about images; base64 needs no escaping, so it is inserted between parts of JSON."""
        body = [b'{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"look"}']
        for image in images:
            body += (
                b',{"type":"image_url","image_url":{"url":"data:image/png;base64,',
                self._encode(image, newline=False),
                b'"}}',
            )
        body.append(b"]}]}")
        reply = await self._pool.request(b"/v1/chat/completions", body)
        return self._json.loads(reply)["choices"][0]["message"]["content"]

    def queue(self, slots, model):
        import asyncio

        free = asyncio.Semaphore(slots)

        async def ask(number):
            async with free:
                return await self.reply(model)

        return ask

    async def tools(self, turns, shout):
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
            body = self._json.dumps(
                {"model": "tools", "messages": messages, "tools": [tool]}
            ).encode()
            message = self._json.loads(await self._pool.request(b"/v1/chat/completions", [body]))[
                "choices"
            ][0]["message"]
            if not message.get("tool_calls"):
                return message["content"]
            messages.append(message)
            for call in message["tool_calls"]:
                result = shout(**self._json.loads(call["function"]["arguments"]))
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})

    def conversation(self, history):
        messages = []
        for role, text, *images in history:
            urls = [
                f"data:image/png;base64,{self._encode(image, newline=False).decode()}"
                for image in images
            ]
            parts = [
                {"type": "text", "text": text},
                *({"type": "image_url", "image_url": {"url": url}} for url in urls),
            ]
            messages.append({"role": role, "content": parts if images else text})

        async def say(text):
            messages.append({"role": "user", "content": text})
            body = self._json.dumps({"model": "m", "messages": messages}).encode()
            reply = await self._pool.request(b"/v1/chat/completions", [body])
            messages.append(self._json.loads(reply)["choices"][0]["message"])
            return messages[-1]["content"]

        return say


if __name__ == "__main__":
    measure.main(load, Client)
