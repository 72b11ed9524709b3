"""One folder for each step of the graph, each run as `python -m components.<step>`."""
