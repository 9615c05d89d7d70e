"""One working image in, one translated image out."""
