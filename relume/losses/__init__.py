"""Losses between a restored and a clean batch, both (N, C, H, W) in about [0, 1]; each returns a scalar."""
