"""Training of encoders and decoders."""
