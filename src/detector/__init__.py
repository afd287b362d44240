"""Transfer-learning object detection: Faster R-CNN, staged unfreezing, honest evaluation."""

__version__ = "0.1.0"
