"""
What models cost: Table 2.1 of GPT-3, what training the largest would take, and how many tokens per
second a training step reads on this machine.

    python -m papers.gpt3 sizes     the papers' models; no weight is allocated
    python -m papers.gpt3 speed     GPT-2's smallest; --batch-size 16 --block-size 1024 on a GPU

Papers: GPT-3 (arXiv:2005.14165) Table 2.1, Appendix D (compute); ZeRO (arXiv:1910.02054)
§3.1 (memory).
"""
import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

import gpt
from data import Batches, option, run_folder
from gpt import GPT, PRESETS, GPTConfig, print_table
from papers.flash_attention import DEVICE, TIMED_DTYPE, timed

# What the papers print: parameters. GPT-3's models all read 300 billion tokens.
PRINTED = {
    "gpt1": "117M",
    "gpt2": "117M",
    "gpt2-medium": "345M",
    "gpt2-large": "762M",
    "gpt2-xl": "1542M",
    "gpt3-small": "125M",
    "gpt3-medium": "350M",
    "gpt3-large": "760M",
    "gpt3-xl": "1.3B",
    "gpt3-2.7b": "2.7B",
    "gpt3-6.7b": "6.7B",
    "gpt3-13b": "13.0B",
    "gpt3-175b": "175.0B",
}
GPT3_TOKENS = 300e9
# GPT-2's tokens are not published. We assume one pass over its 40 GB of text, at about four bytes
# per token.
GPT2_TOKENS = 40e9 / 4

# Bytes per parameter in training. gpt.py keeps everything in float32 (its default Muon has one
# moment; autocast on CUDA adds 2 bytes from forward to backward). Usual for large models are
# weights and gradients in bfloat16 beside float32 master weights, which is as much: 2 + 2 + 4
# bytes.
TRAINING_BYTES = {"weights": 4, "gradients": 4, "AdamW's first moments": 4, "second moments": 4}
# We assume devices like NVIDIA's H100: memory, and peak rate of bfloat16 (dense). The utilisation
# counts only what `parameters_and_flops` counts.
DEVICE_BYTES = 80e9
DEVICE_FLOPS = 989e12
UTILISATION = 0.4


def parameters_and_flops(config: GPTConfig) -> tuple[int, float]:
    """The parameters of a model, of which no weight is allocated, and the floating-point
    operations for one token, forward and backward.

    6 operations for every weight that multiplies (all but the positions), and 6 C T per layer for
    attention's two products over half of the context on average (the paper's Appendix D leaves
    attention out); less where a layer has a band.
    """
    with torch.device("meta"):
        model = GPT(config)
    T = config.block_size
    seen = 0  # tokens that a query sees on average, summed over layers
    for block in model.h:
        window = block.attn.window or T
        seen += window - window ** 2 / (2 * T)
    weights = model.num_params() - model.wpe.weight.numel()
    return model.num_params(), 6 * weights + 12 * config.n_embd * seen


def training_needs(config: GPTConfig, tokens: float) -> dict[str, str]:
    """What training a model with AdamW on so many tokens takes at least."""
    parameters, flops_per_token = parameters_and_flops(config)
    needs = {"parameters": f"{parameters:,}"}
    in_all = sum(TRAINING_BYTES.values())
    for name, width in (TRAINING_BYTES | {"in all": in_all}).items():
        needs[f"{name}, {width} bytes, GB"] = f"{width * parameters / 1e9:,.1f}"
    devices = math.ceil(in_all * parameters / DEVICE_BYTES)
    needs[f"devices of {DEVICE_BYTES / 1e9:.0f} GB that hold this"] = str(devices)
    flops = flops_per_token * tokens
    days = flops / (DEVICE_FLOPS * UTILISATION) / (24 * 60 * 60)
    needs["tokens"] = f"{tokens:.1e}"
    needs["FLOP"] = f"{flops:.2e}"
    needs["days on one device"] = f"{days:,.1f}"
    needs["days on the devices above"] = f"{days / devices:,.1f}"
    return needs


def sizes():
    """The papers' models in numbers: parameters, memory, compute; and what training two of them
    takes. [GPT-3 Table 2.1, App. D]"""
    rows = []
    for name, config in PRESETS.items():
        parameters, flops = parameters_and_flops(config)
        row = {
            "model": name,
            "paper": PRINTED.get(name),
            "parameters": f"{parameters:,}",
            "weights GB": 4 * parameters / 1e9,
            "training GB": sum(TRAINING_BYTES.values()) * parameters / 1e9,
            "GFLOP/token": flops / 1e9,
        }
        if name.startswith("gpt3"):
            row["training FLOP"] = f"{flops * GPT3_TOKENS:.2e}"
        rows.append(row)
    folder = run_folder("sizes", {})
    print_table(rows, folder / "table.json")
    print("float32; training: weights, gradients and AdamW's two moments, without activations;\n"
          "GFLOP: forward and backward\n")

    small = training_needs(PRESETS["gpt2-xl"], GPT2_TOKENS)
    large = training_needs(PRESETS["gpt3-175b"], GPT3_TOKENS)
    rows = [{"training": need, "gpt2-xl": small[need], "gpt3-175b": large[need]}
            for need in small]
    print_table(rows, folder / "training.json")
    print(f"assumed: GPT-2 reads {GPT2_TOKENS:.0e} tokens (not published); a device does "
          f"{DEVICE_FLOPS / 1e12:.0f} TFLOP/s, {UTILISATION:.0%} of them useful")


# ------------------------------------------------------------------------------
# Measured: the time of a training step


@dataclass
class SpeedOptions:
    batch_size: int = option(2, "sequences per step", at_least=1)
    # shorter rows do not use the fused kernel
    block_size: int = option(256, "tokens per sequence", at_least=129)


def speed(options: SpeedOptions = SpeedOptions()):
    """Time training steps of GPT-2's smallest model on this machine, with our attention and with
    PyTorch's. A step is that of `gpt.train` with AdamW alone: Muon's work does not grow with the
    batch and would hide the rest."""
    config = dataclasses.replace(PRESETS["gpt2"], block_size=options.block_size)
    tokens = options.batch_size * options.block_size
    _, flops_per_token = parameters_and_flops(config)
    rows = []
    ours = gpt.fused_attention
    for name, attention in (("ours", ours), ("PyTorch's", pytorch_attention)):
        gpt.fused_attention = attention
        seconds = seconds_per_step(config, options.batch_size)
        gpt.fused_attention = ours
        rows.append({"attention": name, "ms": 1000 * seconds, "tokens/s": round(tokens / seconds),
                     "TFLOP/s": flops_per_token * tokens / seconds / 1e12})
    print(f"matrix products in {TIMED_DTYPE}")
    print_table(rows, run_folder("speed", {}) / "table.json")


def pytorch_attention(q, k, v, window=None):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def seconds_per_step(config: GPTConfig, batch_size: int) -> float:
    """The median of five timed steps, in seconds."""
    model = GPT(config).to(DEVICE)
    optimizers = gpt.make_optimizers(model, lr=1e-4)
    stream = np.random.default_rng(0).integers(0, config.vocab_size, 100_000)
    batches = Batches(stream, batch_size, config.block_size, seed=0)

    def step():
        gpt.pretraining_loss(model, batches).backward()
        gpt.update(model, optimizers, fraction=1.0)

    seconds = [timed(step) for _ in range(7)]  # two to warm up
    return float(np.median(seconds[2:]))
