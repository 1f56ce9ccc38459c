"""An edit from request to folder: videos, a sheet and a record."""
