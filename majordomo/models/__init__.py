"""How calls run: chat, image and embedding models, the tool loop, retries, polling and progress.

Everything is written once, async, on anyio. Sync methods run the same coroutines in the portal.
"""
