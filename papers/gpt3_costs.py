"""
What models cost: Table 2.1 of GPT-3, and a training step with and without banded
layers.

    python -m papers.gpt3 sizes     the papers' models; no weight is allocated

Paper: GPT-3 (arXiv:2005.14165) §2.1 (bands), Table 2.1, Appendix D (compute).
"""
import math
import time
from dataclasses import dataclass

import torch

from data import option, run_folder
from gpt import GPT, PRESETS, GPTConfig, print_table
from papers.flash_attention import in_new_process, peak_memory

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


# ------------------------------------------------------------------------------
# Counted: parameters, activations, operations


def flops_per_token(model: GPT) -> float:
    """Floating-point operations for one token, forward and backward.

    6 for every weight that multiplies (all but the positions), and 6 C T per
    layer for attention's two products over half of the context on average; less
    where a layer has a band.
    """
    config = model.config
    seen = 0
    for block in model.h:
        window = block.attn.window or math.inf
        seen += min(config.block_size / 2, window)
    weights = model.num_params() - model.wpe.weight.numel()
    return 6 * weights + 12 * config.n_embd * seen


def activations(config: GPTConfig) -> int:
    """Numbers that one full sequence keeps for the backward pass.

    17 C per token and layer: the input of each sub-layer and its normalized
    form; q, k, v and the output of attention, also side by side; the MLP's 4 C
    twice. Then the last state and its normalized form, and the
    log-probabilities.
    """
    per_token = 17 * config.n_embd * config.n_layer
    per_token += 2 * config.n_embd + config.vocab_size
    return config.block_size * per_token


@dataclass
class SizesOptions:
    batch_size: int = option(1, "sequences per step, for the memory of activations", at_least=1)


def sizes(options: SizesOptions = SizesOptions()):
    """The papers' models in numbers: parameters, memory, compute. [GPT-3 Table
    2.1, App. D]"""
    rows = []
    for name, config in PRESETS.items():
        with torch.device("meta"):
            model = GPT(config)
        parameters = model.num_params()
        flops = flops_per_token(model)
        row = {
            "model": name,
            "paper": PRINTED.get(name),
            "parameters": f"{parameters:,}",
            "weights GB": 4 * parameters / 1e9,
            "training GB": 16 * parameters / 1e9,
            "activations GB": 4 * options.batch_size * activations(config) / 1e9,
            "GFLOP/token": flops / 1e9,
        }
        if name.startswith("gpt3"):
            row["training FLOP"] = f"{flops * GPT3_TOKENS:.2e}"
        rows.append(row)
    print_table(rows, run_folder("sizes", {}) / "table.json")
    print("float32; training: weights, gradients and AdamW's two moments;\n"
          "activations: what a training step keeps for its backward pass, "
          f"{options.batch_size} full sequence(s);\n"
          "GFLOP: forward and backward")


# ------------------------------------------------------------------------------
# Measured: time and memory of a training step


def training_seconds(configs: list[GPTConfig], repeats: int = 5) -> list[float]:
    """Seconds of a forward and backward pass over one full context: the least
    of several."""
    models = [GPT(config) for config in configs]
    least = [math.inf] * len(models)
    # In turns, so that a slow moment of the machine affects all of them.
    for _ in range(repeats):
        for index, model in enumerate(models):
            idx = torch.zeros(1, model.config.block_size, dtype=torch.long)  # (1, T)
            started = time.perf_counter()
            model(idx, idx)[1].backward()
            least[index] = min(least[index], time.perf_counter() - started)
    return least


def peak_of_training(config: GPTConfig) -> float:
    """Peak MB of a forward and backward pass over one full context. Call it in
    a fresh process."""
    model = GPT(config)
    idx = torch.zeros(1, config.block_size, dtype=torch.long)  # (1, T)
    # what PyTorch loads on first use does not count
    model(idx[:, :2], idx[:, :2])[1].backward()
    before = peak_memory()
    for _ in range(2):
        model(idx, idx)[1].backward()
    return (peak_memory() - before) / 2**20


def training_megabytes(config: GPTConfig) -> float:
    """peak_of_training in a process of its own."""
    return in_new_process(peak_of_training, config)
