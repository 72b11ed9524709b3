"""What the gateway's requests were like, kept in the home, and the check that says whether they have changed."""
