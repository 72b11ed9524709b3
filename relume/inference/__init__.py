"""How a model restores an image: the plan, the one executor that carries it out, and levels."""
