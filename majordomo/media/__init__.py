"""Images as values: the image part, container formats, EXIF and generation metadata."""
