"""Verify and clean up what lies on disk."""
