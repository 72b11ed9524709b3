"""Fine-tunes the whole ensemble on the hard patches, mixed with others."""
