"""Base class of clients that only process images: nothing to open or close."""


class Local:
    def __init__(self, url):
        pass

    async def __aenter__(self):
        return self

    async def __aexit__(self, *raised):
        pass
