"""raw: asyncio and json, and HTTP by hand. Close to the limit, not a product."""

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
        return [self._json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": stream}).encode()]

    async def reply(self, model):
        body = await self._pool.request(b"/v1/chat/completions", self._body(model))
        return self._json.loads(body)["choices"][0]["message"]["content"]

    async def deltas(self, model):
        """How many pieces of text arrived."""
        words, tail = [], b""
        loads = self._json.loads

        def on_data(data):
            nonlocal tail
            *events, tail = (tail + data).split(b"\n\n")
            for event in events:
                if event != b"data: [DONE]":
                    text = loads(event[6:])["choices"][0]["delta"].get("content")
                    if text:
                        words.append(text)

        await self._pool.request(b"/v1/chat/completions", self._body(model, stream=True), on_data)
        return len(words)

    async def lines(self, model):
        words, tail = [], b""
        loads = self._json.loads

        def on_data(data):
            nonlocal tail
            *lines, tail = (tail + data).split(b"\n")
            for line in lines:
                text = loads(line)["message"]["content"]
                if text:
                    words.append(text)

        await self._pool.request(b"/api/chat", self._body(model, stream=True), on_data)
        return len(words)

    async def picture(self, model):
        """The size of the picture."""
        body = await self._pool.request(b"/v1/images/generations", [self._json.dumps({"model": model, "prompt": "a cat"}).encode()])
        start = body.index(b'"b64_json":"') + len(b'"b64_json":"')
        return len(self._decode(memoryview(body)[start : body.index(b'"', start)]))

    async def turn(self, pictures):
        """A question about pictures; base64 needs no escaping, so it is put between pieces of JSON."""
        body = [b'{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"look"}']
        for picture in pictures:
            body += b',{"type":"image_url","image_url":{"url":"data:image/png;base64,', self._encode(picture, newline=False), b'"}}'
        body.append(b"]}]}")
        reply = await self._pool.request(b"/v1/chat/completions", body)
        return self._json.loads(reply)["choices"][0]["message"]["content"]


if __name__ == "__main__":
    measure.main(load, Client)
