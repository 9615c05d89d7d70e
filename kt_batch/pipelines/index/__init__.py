"""A library to its index."""
