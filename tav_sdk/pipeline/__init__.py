"""A bundle's graphs on engines: what inverts, edits and generates."""
