"""The ways between the ranks of a group: MPI on host memory, CUDA-aware MPI, NCCL."""
