"""Tensors that are spread over processes: which part is here, and filling it as a part of all."""
