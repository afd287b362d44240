"""Readers of annotation files, one module a format; `table` lists them. Nothing is validated."""
