"""Concurrency building blocks: the portal, task streams, event-loop lifetime and fork safety."""
