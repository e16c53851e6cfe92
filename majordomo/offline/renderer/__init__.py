"""The renderer behind the offline image model: draws scenes from the words of a prompt with Pillow."""
