"""How a method is trained: the Lightning module, its data, optimizers, callbacks and processes.

It may use methods/, checkpoints/, evaluation/, report/ and system/, and the configuration.
"""
