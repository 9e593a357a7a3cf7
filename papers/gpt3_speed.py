"""
How fast this machine trains GPT-2's smallest model: tokens per second, and the share of
the rate at which it multiplies two matrices.

    python -m papers.gpt3 speed                                         on a CPU
    python -m papers.gpt3 speed --batch-size 16 --block-size 1024       on a GPU

With our attention and with PyTorch's, and with a vocabulary that is a multiple of 64, which
GPUs prefer. A step is that of `gpt.train` with AdamW alone: Muon's work does not grow with
the batch and would hide the rest.
"""
import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

import gpt
from data import Batches, option, run_folder
from gpt import GPT, PRESETS, GPTConfig, print_table
from papers.flash_attention import DEVICE, TIMED_DTYPE, timed
from papers.gpt3_costs import flops_per_token


@dataclass
class SpeedOptions:
    batch_size: int = option(2, "sequences per step", at_least=1)
    block_size: int = option(256, "tokens per sequence", at_least=2)
    repeats: int = option(5, "timed steps of each; the median counts", at_least=1)


def speed(options: SpeedOptions = SpeedOptions()):
    """Time training steps of GPT-2's smallest model on this machine."""
    peak = matrix_flops(options.repeats)
    rows = []
    ours = gpt.fused_attention
    for name, attention in (("ours", ours), ("PyTorch's", pytorch_attention)):
        for vocab_size in (50257, 50304):
            config = dataclasses.replace(PRESETS["gpt2"], vocab_size=vocab_size,
                                         block_size=options.block_size)
            gpt.fused_attention = attention
            try:
                seconds, flops = seconds_per_step(config, options)
            finally:
                gpt.fused_attention = ours
            rows.append({
                "attention": name, "vocabulary": vocab_size, "ms": 1000 * seconds,
                "tokens/s": round(options.batch_size * options.block_size / seconds),
                "TFLOP/s": flops / seconds / 1e12, "of a matrix product": flops / seconds / peak})
    print_table(rows, run_folder("speed", {}) / "table.json")
    print(f"{TIMED_DTYPE}; a product of two 8192 x 8192 matrices: {peak / 1e12:.2f} TFLOP/s")


def pytorch_attention(q, k, v, window=None):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def matrix_flops(repeats: int) -> float:
    """Operations per second of a large matrix product."""
    a, b = (torch.randn(8192, 8192, dtype=TIMED_DTYPE, device=DEVICE) for _ in range(2))
    seconds = [timed(torch.matmul, a, b) for _ in range(repeats + 1)]
    return 2 * 8192**3 / float(np.median(seconds[1:]))


def seconds_per_step(config: GPTConfig, options: SpeedOptions) -> tuple[float, float]:
    """Median seconds of a step, and its operations."""
    model = GPT(config).to(DEVICE)
    optimizers = gpt.make_optimizers(model, lr=1e-4)
    stream = np.random.default_rng(0).integers(0, config.vocab_size, 100_000)
    batches = Batches(stream, options.batch_size, config.block_size, seed=0)

    def step():
        gpt.pretraining_loss(model, batches).backward()
        gpt.update(model, optimizers, fraction=1.0)

    seconds = [timed(step) for _ in range(options.repeats + 2)]  # two to warm up
    flops = flops_per_token(model) * options.batch_size * options.block_size
    return float(np.median(seconds[2:])), flops
