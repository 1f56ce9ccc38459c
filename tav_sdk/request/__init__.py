"""What is asked for, checked once; and the same, resolved against a bundle."""
