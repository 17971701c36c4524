"""Linears with quantized weights."""
