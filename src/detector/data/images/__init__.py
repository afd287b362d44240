"""Image files: headers and pixels."""
