"""Photographs brought in: where they come from, and how they are decoded or quarantined."""
