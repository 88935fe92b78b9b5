"""The CPU cores, the GPU and their settings."""

import ctypes
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeVar

import torch
from torch import Tensor

from crn.system.interrupts import ctrl_c_waits

T = TypeVar("T")

# Share of a GPU's free memory that images may take; the rest is for the networks.
_SHARE_OF_FREE_MEMORY = 0.25
# Parameters of glibc's mallopt.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_FROM_HEAP = 32 * 1024 * 1024


def set_up_cpu(processes: int = 1) -> None:
    """Use the cores that the process really has, and keep the memory of freed tensors.

    Every training step allocates and frees tensors of megabytes; by default the system would get
    each of them back and hand it out again page by page. This many processes share the cores.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        from joblib import cpu_count

        threads = max(1, cpu_count() // processes)
        torch.set_num_threads(threads)
        if processes > 1:
            # Lightning would set another number, which ignores quotas.
            os.environ["OMP_NUM_THREADS"] = str(threads)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_FROM_HEAP)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def pick_device(cpu: bool) -> torch.device:
    """A GPU with TF32 turned off, or the CPU if ``cpu`` is true or there is no GPU.

    From Ampere on, cuDNN by default rounds the inputs of convolutions from the 23 bits of float32
    to the 10 of TF32. Matrix products keep float32 by default.
    """
    if not cpu and torch.cuda.is_available():
        torch.backends.cudnn.allow_tf32 = False
        return torch.device("cuda")
    return torch.device("cpu")


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 faster than float32, in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


def lightning_precision(choice: str, device: torch.device) -> Literal["32-true", "bf16-mixed"]:
    """Lightning's name for ``--precision``: parameters and their updates are float32 in both."""
    use_bfloat16 = choice == "bf16" or (choice == "auto" and has_fast_bfloat16(device))
    return "bf16-mixed" if use_bfloat16 else "32-true"


def in_threads(act: Callable[[int], T], count: int, threads: int) -> list[T]:
    """The results of ``act(0)`` to ``act(count - 1)``, in this order.

    An error, or Ctrl-C, reaches the caller after the calls under way have ended.
    """
    with ThreadPoolExecutor(threads) as pool:
        # A pool that is interrupted while starting threads does not wait for them.
        with ctrl_c_waits():
            results = pool.map(act, range(count))
        return list(results)


def is_finite(tensor: Tensor) -> bool:
    """Whether no number of a tensor that is not empty is infinite or NaN.

    It takes one pass and no boolean tensor: on a CPU a tenth of the time of
    ``tensor.isfinite().all()``, which takes half a second for a gigabyte of weights.
    """
    # A NaN becomes both minimum and maximum.
    low, high = tensor.aminmax()
    return bool(low.isfinite()) and bool(high.isfinite())


def to_device_if_it_fits(pixels: Tensor, device: torch.device) -> Tensor:
    """Move images to the device, or pin them in main memory if they are too large for it."""
    if device.type != "cuda":
        return pixels.to(device)
    free, _ = torch.cuda.mem_get_info(device)
    if pixels.numel() * pixels.element_size() < free * _SHARE_OF_FREE_MEMORY:
        return pixels.to(device)
    return pixels.pin_memory()
