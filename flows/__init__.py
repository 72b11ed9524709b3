"""Prefect flows over the one graph: the pipeline, the release, retraining, and the local platform.

No module here is named as a package that others import (`dvc`, `triton`): Prefect puts the folder of a deployed flow on
the path.
"""
