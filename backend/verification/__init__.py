"""What a device computed beside the references of its kernels."""
