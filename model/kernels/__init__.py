"""C++ kernels for the CPU: the operations in which MindSpore's own backend is slow."""
