"""Pixels: what is drawn here and what can be seen in a picture. The one room that imports Pillow."""
