"""An index that several owners hold together on processors, and a search that asks them."""
