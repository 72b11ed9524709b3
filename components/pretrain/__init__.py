"""Trains one base model of the ensemble on the curated patches."""
