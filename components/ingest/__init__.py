"""Stage `ingest`: listed files become decoded photographs, or are quarantined with a reason."""
