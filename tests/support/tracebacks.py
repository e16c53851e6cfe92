"""What a log with local variables would show of an error."""

from __future__ import annotations


def library_locals(error: BaseException) -> str:
    """Return the local variables of every frame of the library in the error's traceback."""
    texts = []
    trace = error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if "majordomo" in file and "/tests/" not in file:
            texts.append(repr(trace.tb_frame.f_locals))
        trace = trace.tb_next
    return "".join(texts)
