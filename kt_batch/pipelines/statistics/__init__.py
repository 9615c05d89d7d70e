"""A library to its statistics."""
