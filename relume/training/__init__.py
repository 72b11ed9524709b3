"""Training: counter-based batches, schedules, losses in a loop that can be killed and is resumed exactly."""
