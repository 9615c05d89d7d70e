"""Figures and pages from what is on disk."""
