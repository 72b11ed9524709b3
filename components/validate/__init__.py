"""Stage `validate`: the prepared data is checked against expectations before anything is trained on it."""
