"""Providers: addresses, keys and deviations of servers, one module per provider.

A model string finds a provider by the name of its module.
"""
