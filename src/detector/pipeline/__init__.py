"""What several commands share: load the data, detect and score, write results."""
