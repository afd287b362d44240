"""Numbers from detections and truth, nothing else."""
