"""Trains the fusion head over the frozen base models."""
