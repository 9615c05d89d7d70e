"""An index that several owners hold together, and a search that asks them."""
