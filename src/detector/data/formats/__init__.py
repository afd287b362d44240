"""Annotation files of every format as `RawSplit`, with nothing validated."""
