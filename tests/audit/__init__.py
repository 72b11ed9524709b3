"""What others have published about the packages that relume needs: known faults, and terms."""
