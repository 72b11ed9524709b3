"""The local platform: background services, their state, and what is missing on this machine."""
