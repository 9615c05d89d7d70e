"""The searchers, and what they share."""
