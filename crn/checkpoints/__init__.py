"""Checkpoints: written whole, and read as data, never as code.

It may use methods/ and system/, and the configuration.
"""
