"""Step `validate`: the prepared data is held against its expectations before anything is trained on it."""
