"""The version of the package, and that of its models: the second is part of every cache key."""

__version__ = "0.1.0"
MODEL_VERSION = 19  # raised by every change that moves simulated numbers
