"""Pipelines: which layers stand on which stage, the order of micro-batches on each, and when all of it happens."""
