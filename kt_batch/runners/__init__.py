"""Who runs the units: a plain local loop, or Ray. Knows no algorithm; the only package that imports ray."""
