"""Speed of the networks against plain transcriptions of the published order of operations."""
