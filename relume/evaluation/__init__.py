"""Evaluation: any model on any set of pictures under the protocols of the literature, and two models in pairs."""
