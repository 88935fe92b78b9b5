"""How a method is trained: the Lightning module, its data, optimizers, callbacks and processes."""
