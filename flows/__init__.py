"""Prefect flows over the one graph: the pipeline, the release, retraining, and the local platform."""
