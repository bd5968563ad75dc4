"""Serving: the requests that a deployed model receives."""

from archsim.serving.arrivals import REQUEST, Arrivals, read_arrivals

__all__ = ["REQUEST", "Arrivals", "read_arrivals"]
