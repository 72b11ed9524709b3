"""Ranks the training patches by the loss that the ensemble leaves on them."""
