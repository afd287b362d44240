"""Splitting of images by ratio: groups, stratification and files of earlier splits."""
