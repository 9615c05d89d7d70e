"""Build a paired library from before/after pairs, and fit what they teach."""
