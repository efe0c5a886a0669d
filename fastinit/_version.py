"""The version of the package, and the releases of torch that it is tested with, in one place."""

__version__ = "0.1.0"

# The oldest, which is also the oldest that it builds with, and the newest: `make test-range`.
TORCH_TESTED = ("2.10.0", "2.15.0")
