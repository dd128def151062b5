"""Programs for a machine with a GPU, and for compiling its kernels without one."""
