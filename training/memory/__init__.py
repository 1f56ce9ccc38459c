"""How much memory tuning, export and editing will take."""
