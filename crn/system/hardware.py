"""What the machine has, and how the process is set up for it."""

import ctypes
import os
import sys

import torch

# Parameters of glibc's mallopt.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_FROM_HEAP = 32 * 1024 * 1024


def set_up_cpu(processes: int = 1) -> None:
    """Use the cores that the process really has, and keep the memory of freed tensors.

    A step frees and takes tensors of megabytes, and by default each is given back to the system
    and fetched again, page by page.

    Args:
        processes: how many share the cores.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        from joblib import cpu_count

        threads = max(1, cpu_count() // processes)
        torch.set_num_threads(threads)
        if processes > 1:
            # Lightning would set another number, which does not know of quotas.
            os.environ["OMP_NUM_THREADS"] = str(threads)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):  # musl has none
            libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_FROM_HEAP)
            libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def pick_device(cpu: bool) -> torch.device:
    """The CPU where it is asked for, else a GPU where there is one."""
    if not cpu and torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("cpu")


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 faster than float32, in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        # Older versions of torch cannot tell, and get float32.
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()
        return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


def lightning_precision(choice: str, device: torch.device) -> str:
    """Lightning's name for ``--precision``: parameters and their updates are float32 in both."""
    use_bfloat16 = choice == "bf16" or (choice == "auto" and has_fast_bfloat16(device))
    return "bf16-mixed" if use_bfloat16 else "32-true"
