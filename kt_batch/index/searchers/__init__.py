"""Ways to find the nearest patch, one module each."""
