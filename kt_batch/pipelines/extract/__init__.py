"""Images to a knowledge library."""
