"""Measures of edited videos, see docs/EVALUATION.md."""
