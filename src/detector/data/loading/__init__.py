"""Data set, sampler, augmentation and caches behind Lightning's loaders."""
