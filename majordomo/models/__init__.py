"""How a conversation goes: ask, listen, collect, try again, give up. Written once, on anyio; the blocking colour runs the same code."""
