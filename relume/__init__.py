"""relume: image restoration models and the tools to train, check, export and serve them."""

__version__ = "0.1.0"

__all__ = ["__version__"]
