"""What tav bench measures: steps, whole edits, and the machine's floor."""
