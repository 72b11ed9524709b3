"""Ways to run a trained network: in eight orientations, with added biases, at a level fixed, limited or estimated."""
