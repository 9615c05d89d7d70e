"""Run units of work in a local loop or on Ray. Knows no algorithm; the only package that imports ray."""
