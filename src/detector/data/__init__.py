"""Files to batches: readers, augmentation, loaders. Imports no other package of ours."""
