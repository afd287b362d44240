"""Detections and ground truth of other tools, from files."""
