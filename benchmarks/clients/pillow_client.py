"""Pillow: handwritten code to resize images and to drop metadata."""

import measure
from without_network import Local


def load():
    import PIL.Image  # noqa: F401


class Client(Local):
    def __init__(self, url):
        from io import BytesIO

        from PIL import Image

        self._image, self._bytes = Image, BytesIO

    def _saved(self, image, **options):
        out = self._bytes()
        image.save(out, **options)
        return out.getvalue()

    def resize(self, data, fast):
        image = self._image.open(self._bytes(data))
        small = image.resize(
            (512, 512), self._image.Resampling.BOX if fast else self._image.Resampling.LANCZOS
        )
        return self._saved(small, format="JPEG", quality=85)

    def strip(self, data):
        image = self._image.open(self._bytes(data))
        return self._saved(image, format="PNG")

    async def derive(self, images):
        return [self._three(data) for data in images]

    def _three(self, data):
        image = self._image.open(self._bytes(data))
        image.load()
        small = image.resize((256, 256), self._image.Resampling.LANCZOS)
        return len(
            [
                self._saved(small, format="WEBP", quality=80),
                self._saved(image, format="WEBP"),
                self._saved(image, format="PNG"),
            ]
        )


if __name__ == "__main__":
    measure.main(load, Client)
