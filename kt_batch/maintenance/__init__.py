"""Verify and clean up libraries and runs."""
