"""Images to translated images."""
