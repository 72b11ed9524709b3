"""Measures every model, the noisy input and non-local means on the held-out photographs."""
