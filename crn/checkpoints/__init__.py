"""Checkpoints: written whole, read without running what is in them, and resumed from.

It may use methods/ and system/, and the configuration.
"""
