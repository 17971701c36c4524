"""Quantized weights: torchao's recipes, what they leave in float, and what file formats hold."""
