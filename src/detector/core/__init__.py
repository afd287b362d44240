"""Plain types, boxes, errors, files and text, which every part shares."""
