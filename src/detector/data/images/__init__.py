"""Image files: headers and decoding."""
