"""The LightningModule, its callbacks, checkpoint files and loggers."""
