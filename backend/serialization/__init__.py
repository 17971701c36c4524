"""The byte formats: the Program in a .pte, and the kernel library."""
