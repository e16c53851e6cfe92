"""The offline provider: an image renderer and a rule-based chat that need no network.

Neither uses a neural network, and neither claims to be a model.
"""
