"""Restoration networks, one family per file, and the artifact that a trained one is kept in."""
