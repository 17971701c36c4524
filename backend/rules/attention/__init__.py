"""Attention and the caches of its keys and values."""
