"""Detections and ground truth in files of other tools, and how they belong together."""
