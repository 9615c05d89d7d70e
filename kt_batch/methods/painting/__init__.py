"""Photographs painted like the pictures of a library, from coarse forms to fine strokes."""
