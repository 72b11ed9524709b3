"""Puts everything that a release needs into one hashed folder."""
