"""Several libraries to one, without encoding again."""
