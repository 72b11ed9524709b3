"""Ways to run a trained network: in eight orientations, and at a fixed level."""
