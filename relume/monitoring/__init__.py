"""What production sends and gets, as a few numbers for each image, and whether these have changed."""
