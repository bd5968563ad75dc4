"""Models: one phenomenon a file, pure functions of numbers, the equation in the docstring."""
