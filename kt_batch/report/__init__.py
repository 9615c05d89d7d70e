"""Make figures and pages from what is on disk."""
