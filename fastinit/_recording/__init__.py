"""What initialisers do, written down and done later: README.md beside this file."""
