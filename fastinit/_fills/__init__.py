"""Fills as data: one fill, the memory it goes to, and many fills that run together."""
