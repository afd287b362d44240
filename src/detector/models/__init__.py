"""The network in plain torch: usable without Lightning, Hydra or a configuration."""
