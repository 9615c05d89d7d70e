"""Image files: reading, colour, writing."""
