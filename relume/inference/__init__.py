"""Ways to run a trained network: in eight orientations, and at a level that is fixed, limited or estimated."""
