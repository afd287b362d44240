"""Pretrained networks as stages under a feature pyramid."""
