"""Reports of a run: an HTML page that needs no network, pictures and tables."""
