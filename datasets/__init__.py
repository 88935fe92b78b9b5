"""The data sets: their layouts on disk, the table of samples, and one reader for all images."""
