"""Whole models: names and rules, what modules define themselves, and the two functions."""
