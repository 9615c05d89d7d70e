"""Train encoders and decoders."""
