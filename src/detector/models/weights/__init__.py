"""Pretrained weights: where from, and into a network."""
