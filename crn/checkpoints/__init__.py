"""Checkpoints: written whole, and read as data, never as code."""
