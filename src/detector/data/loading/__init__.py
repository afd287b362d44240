"""Loading of batches: data set, sampler, augmentation, caches and Lightning's data module."""
