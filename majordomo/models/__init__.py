"""How a conversation goes: ask, listen, collect, try again, give up. Written once, on anyio; the blocking color runs the same code."""
