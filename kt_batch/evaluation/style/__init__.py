"""How far results take over the look of a painting, and how much of the photograph they keep."""
