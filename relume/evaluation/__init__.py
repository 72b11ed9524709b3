"""Evaluation: on the held-out photographs of the graph (`held_out`), and on benchmark sets (`benchmark`)."""
