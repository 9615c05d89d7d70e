"""Encoders, decoders, and weights by checksum."""
