"""Arrays of CuPy on NVIDIA GPUs: gridnn's CUDA kernels, cuBLAS, cuBLASLt and cuDNN."""
