"""Encoders, decoders, weights by checksum, and the training loop."""
