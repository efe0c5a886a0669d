"""The initialisers, one function for each; `fastinit` has them all by name."""
