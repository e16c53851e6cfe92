"""pyvips: Lanczos, and block averaging for `fast`. The CPU of its threads is included."""

import measure
from without_network import Local


def load():
    import pyvips  # noqa: F401


class Client(Local):
    def __init__(self, url):
        import pyvips

        self._vips = pyvips

    def resize(self, data, fast):
        image = self._vips.Image.new_from_buffer(data, "", access="sequential")
        small = image.shrink(2, 2) if fast else image.resize(0.5, kernel="lanczos3")
        return small.jpegsave_buffer(Q=85)


if __name__ == "__main__":
    measure.main(load, Client)
