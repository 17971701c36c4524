"""The command `zeropoint`."""
