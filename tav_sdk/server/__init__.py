"""Edits, generations and tunings over HTTP: the API, its store of jobs, and the workers that do them."""
