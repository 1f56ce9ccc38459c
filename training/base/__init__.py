"""Base models: every kind of file and folder that they come in."""
