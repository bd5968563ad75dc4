"""Whole models on whole systems against published figures, inference and training."""
