"""Pretrained weights: fetched by name or read from a file, and loaded into a network."""
