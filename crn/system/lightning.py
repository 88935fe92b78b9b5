"""pytorch_lightning, which finds `torchmetrics` imported and so need not import more of it."""

import crn.system.torchmetrics  # noqa: F401, I001  (the order counts)
import pytorch_lightning as pl
from lightning_fabric.plugins import environments

__all__ = ["environments", "pl"]
