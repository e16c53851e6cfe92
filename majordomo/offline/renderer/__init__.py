"""The renderer of the offline image model: draws scenes from the words of a prompt with Pillow."""
