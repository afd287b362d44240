"""Staged unfreezing: the schedule, and the callback that applies it."""
