"""Tensors in, tensors out: no I/O, no logging, no configuration."""
