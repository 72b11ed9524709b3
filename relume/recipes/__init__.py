"""Recipes: how each published system is trained, as data, and the check of what they say."""
