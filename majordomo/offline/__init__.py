"""The engine behind the offline provider's chat: rules over words and over what an image really shows. It never poses as a model."""
