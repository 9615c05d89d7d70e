"""Run units of work on a Ray cluster; the only package that imports ray."""
