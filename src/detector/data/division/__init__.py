"""Images split by ratio, copies and groups together."""
