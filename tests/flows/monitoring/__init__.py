"""Tests of the requests that are kept, and of the check of them."""
