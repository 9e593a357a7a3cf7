"""
FlashAttention-2: attention that never holds a T x T matrix in memory.

The claims are tested for gpt.fused_attention, which computes tiles of the scores in plain PyTorch,
against gpt.attention, which is the equation:
    exact           output and gradients are those of the equation, up to rounding (§3.1)
    linear memory   twice the context takes twice the memory, with the equation four times (§3.1)
    fast            it is faster than the equation (§4)
The tables also have PyTorch's own attention, which is written in C++, on a GPU in CUDA. On a GPU
the inputs and outputs of all three are in bfloat16 where time and memory are measured.

    python -m papers.flash_attention            two tables (about 4 minutes)
    python -m papers.flash_attention --fast     one small shape

Paper: FlashAttention-2 (arXiv:2307.08691), Algorithms 1 and 2.

Letters: B batch, nh heads, T tokens, hs head size.
"""
import math
import multiprocessing
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from data import command_line, option
from gpt import attention, fused_attention, pick_device, print_table
from papers.claims import Claim, RunOptions, folder_of, mean_and_error, save_claims

METHODS = ("equation", "PyTorch", "ours")

# (B, nh, T, hs), window
EXACT_CASES = [
    ((1, 2, 512, 64), None),
    ((1, 2, 1024, 64), None),
    ((1, 2, 2048, 64), None),
    ((1, 2, 4096, 64), None),
    ((1, 2, 1024, 64), 256),
    ((1, 2, 4096, 64), 256),
]
SPEED_CASES = [
    ((16, 4, 256, 32), None),
    ((4, 12, 1024, 64), None),
    ((1, 12, 4096, 64), None),
    ((1, 12, 1024, 64), 256),
    ((1, 12, 2048, 64), 256),
    ((1, 12, 4096, 64), 256),
    ((1, 12, 8192, 64), 256),
]
FAST_CASES = [((1, 2, 64, 16), None), ((1, 2, 128, 16), None), ((1, 2, 64, 16), 8)]

LONGEST_EQUATION = 4096  # with more tokens the equation needs more memory than many laptops have


@dataclass
class Options(RunOptions):
    name: str = option("flash_attention", "results go to runs/NAME")
    repeats: int = option(5, "timed runs of each; the median counts", at_least=1)


# ------------------------------------------------------------------------------
# One run of attention


DEVICE = pick_device()
TIMED_DTYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float32


def random_inputs(shape, dtype=TIMED_DTYPE) -> list[torch.Tensor]:
    """q, k, v and the gradient of the output, (B, nh, T, hs) each."""
    q, k, v, grad_out = (torch.randn(shape, dtype=dtype, device=DEVICE) for _ in range(4))
    return [q.requires_grad_(), k.requires_grad_(), v.requires_grad_(), grad_out]


def run_attention(method: str, window: int | None, q, k, v, grad_out) -> list[torch.Tensor]:
    """Forward and backward once: [output, gradients of q, k and v]."""
    if method == "equation":
        out = attention(q, k, v, window)
    elif method == "ours":
        out = fused_attention(q, k, v, window)
    elif window is None:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    else:
        j = torch.arange(q.size(2), device=q.device)
        i = j[:, None]
        band = (j <= i) & (i - window < j)  # (T, T)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=band)
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), grad_out)]


# ------------------------------------------------------------------------------
# Time and peak memory


def timed(function, *arguments) -> float:
    """Seconds that a call takes."""
    started = time.perf_counter()
    function(*arguments)
    if DEVICE == "cuda":
        torch.cuda.synchronize()  # or the time is that of starting kernels
    return time.perf_counter() - started


def peak_memory() -> int:
    """The most bytes that this process has held so far; on a GPU, since the last reset."""
    if DEVICE == "cuda":
        return torch.cuda.max_memory_allocated()
    # On Linux getrusage also counts the parent process; /proc does not.
    status = Path("/proc/self/status")
    if status.exists():
        kilobytes = status.read_text().split("VmHWM:")[1].split()[0]
        return 1024 * int(kilobytes)
    import resource  # not on Windows
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def attention_memory(method: str, shape, window: int | None) -> float:
    """Megabytes that one run adds to the peak of a new process."""
    inputs = random_inputs(shape)
    # what PyTorch loads on first use does not count
    run_attention(method, window, *random_inputs((1, 1, 2, shape[3])))
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = peak_memory()
    run_attention(method, window, *inputs)
    return (peak_memory() - before) / 2**20


def in_new_process(function, *arguments):
    """function(*arguments), computed in a process of its own (not needed for a GPU)."""
    if DEVICE == "cuda":
        return function(*arguments)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def exactness_and_memory(cases) -> list[dict]:
    """Largest difference to the equation in float64, and peak memory."""
    rows = []
    for shape, window in cases:
        print(f"... {shape}, window {window}", flush=True)
        row = {"B, nh, T, hs": str(shape), "window": window}
        inputs = random_inputs(shape, torch.float64)
        expected = run_attention("equation", window, *inputs)
        for method in ("PyTorch", "ours"):
            results = run_attention(method, window, *inputs)
            differences = []
            for result, right in zip(results, expected):
                differences.append((result - right).abs().max().item())
            row[f"{method}: output"] = differences[0]
            row[f"{method}: gradients"] = max(differences[1:])
        for method in METHODS:
            megabytes = in_new_process(attention_memory, method, shape, window)
            row[f"{method} MB"] = round(megabytes, 1)
        rows.append(row)
    return rows


def time_and_memory(cases, repeats: int) -> list[dict]:
    """Median milliseconds of forward and backward, and peak memory, of each method."""
    rows = []
    for shape, window in cases:
        print(f"... {shape}, window {window}", flush=True)
        methods = [method for method in METHODS
                   if method != "equation" or shape[2] <= LONGEST_EQUATION]
        inputs = random_inputs(shape)
        seconds = {method: [] for method in methods}
        # In turns, so that a slow moment of the machine affects all of them. The first run of
        # each is not counted.
        for _ in range(repeats + 1):
            for method in methods:
                seconds[method].append(timed(run_attention, method, window, *inputs))

        row = {"B, nh, T, hs": str(shape), "window": window}
        for method in methods:
            milliseconds = 1000 * float(np.median(seconds[method][1:]))
            row[f"{method} ms"] = round(milliseconds, 3)
        for method in methods:
            megabytes = in_new_process(attention_memory, method, shape, window)
            row[f"{method} MB"] = round(megabytes)
        row["ours / PyTorch"] = round(row["ours ms"] / row["PyTorch ms"], 2)
        rows.append(row)
    return rows


def claims(exact: list[dict], speed: list[dict]) -> list[Claim]:
    """Errors are over shapes, which are chosen, no sample; of memory, over doublings of T, each of
    which shares a measurement with the next."""
    digits = []  # more than ten
    for row in exact:
        largest = max(row["ours: output"], row["ours: gradients"])
        digits.append(-math.log10(max(largest, 1e-17)) - 10)

    below = []  # 1.5 minus the exponent p, if memory grows like T^p: each T is twice the one before
    unbanded = [row for row in exact if row["window"] is None]
    for short, long in zip(unbanded, unbanded[1:]):
        # at least 0.1: the shapes of a smoke run may take nothing that can be measured
        exponent = math.log2(max(long["ours MB"], 0.1) / max(short["ours MB"], 0.1))
        below.append(1.5 - exponent)

    speedups = []
    for row in speed:
        if "equation ms" in row and row["window"] is None:
            speedups.append(math.log2(row["equation ms"] / row["ours ms"]))

    paper = "FlashAttention-2"
    return [
        Claim(paper, "§3.1", "exact: decimal places, beyond ten (our margin), in which output "
              "and gradients agree with the equation in float64", "", *mean_and_error(digits), 1,
              len(digits)),
        Claim(paper, "§3.1", "memory is linear in the context T: 1.5 minus the exponent of T",
              "0.5; the equation -0.5", *mean_and_error(below), 1, len(below)),
        Claim(paper, "§4", "forward and backward are faster than the equation: log2 of the "
              f"ratio of times (here on a {DEVICE})", "1.6 to 3.3 (3 to 10 times, on an A100)",
              *mean_and_error(speedups), 1, len(speedups))]


def flash_attention(options: Options = Options()):
    """Exactness, memory and time of attention by tiles. [FlashAttention-2]"""
    folder = folder_of(options, "repeats")
    torch.manual_seed(0)

    print(f"== largest difference to the equation (float64), peak memory ({TIMED_DTYPE})")
    exact = exactness_and_memory(FAST_CASES if options.fast else EXACT_CASES)
    shown = []  # differences as 2e-15
    for row in exact:
        shown.append({name: f"{x:.0e}" if ": " in name else x for name, x in row.items()})
    print_table(shown, folder / "exact.json")

    print(f"\n== forward and backward: median time and peak memory ({TIMED_DTYPE})")
    speed = time_and_memory(FAST_CASES if options.fast else SPEED_CASES, options.repeats)
    print_table(speed, folder / "table.json")
    save_claims(folder, claims(exact, speed))


if __name__ == "__main__":
    command_line({"flash_attention": flash_attention}, default="flash_attention")
