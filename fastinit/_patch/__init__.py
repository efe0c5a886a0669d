"""fastinit in place of torch's random draws, in code that one does not own."""
