"""Tests of what is measured of requests."""
