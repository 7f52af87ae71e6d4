"""Every operation in its readable form, on any array library with NumPy's interface."""
