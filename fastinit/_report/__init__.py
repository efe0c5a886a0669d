"""What the parameters of a model are, beside what they should be."""
