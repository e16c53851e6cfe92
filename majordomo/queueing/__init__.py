"""Waiting for capacity: slots, the fair queue, rate limits and resource groups."""
