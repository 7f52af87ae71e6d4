"""A stand-in for the CUDA driver, whose device memory no processor can touch, and what runs on it."""
