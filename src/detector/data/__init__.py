"""From files to batches: formats, validation, splitting and loading of data sets."""
