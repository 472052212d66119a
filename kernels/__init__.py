"""Pure numba and numpy: arrays in, arrays out."""
