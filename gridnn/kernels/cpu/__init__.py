"""Arrays of NumPy, and the operations that numba and oneDNN compute faster."""
