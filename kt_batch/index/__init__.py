"""The index: the k-means tree, its shards, and the searchers."""
