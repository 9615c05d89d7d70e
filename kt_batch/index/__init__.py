"""BHKM: the tree, its leaves, and the searchers over them."""
