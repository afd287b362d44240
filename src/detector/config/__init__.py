"""The whole configuration, put together from the options of the parts."""
