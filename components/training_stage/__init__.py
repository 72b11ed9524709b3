"""What the training stages share: ranks, the curated data, reports and the artifact, and the training itself."""
