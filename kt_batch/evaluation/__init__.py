"""Measurements of searchers, networks and whole tables."""
