"""
What GPT-1 is compared with: an LSTM of its size, and itself with fewer layers transferred.

Paper: GPT-1 (Radford et al. 2018) §5.
"""
import copy
import math

import torch.nn as nn

import gpt
from gpt import GPT


class LSTM(nn.Module):
    """One recurrent layer in the place of all blocks, with as many parameters as they have (the
    paper's has 2,048 units). It needs no position embeddings. AdamW trains all of it, at the rate
    that was chosen for the transformer: it is untuned."""

    def __init__(self, config: gpt.GPTConfig):
        super().__init__()
        C = config.n_embd
        self.config = config
        # w units have 4 w^2 + (5 C + 8) w parameters, a block has 12 C^2: solve for w
        b, blocks = 5 * C + 8, 12 * C * C * config.n_layer
        width = int((math.sqrt(b * b + 16 * blocks) - b) / 8)
        self.wte = nn.Embedding(config.vocab_size, C)
        self.lstm = nn.LSTM(C, width, batch_first=True)
        self.c_proj = nn.Linear(width, C)
        nn.init.normal_(self.wte.weight, std=0.02)

    def hidden(self, idx, cache=None):
        states, _ = self.lstm(self.wte(idx))                                # (B, T, width)
        return self.c_proj(states)                                          # (B, T, C)

    forward, num_params, device = GPT.forward, GPT.num_params, GPT.device


def transfer(model: nn.Module, layers: int | None) -> nn.Module:
    """A copy of a model that keeps the embeddings and the first `layers` blocks; the rest is new.
    -1 keeps nothing, None everything."""
    if layers is None:
        return copy.deepcopy(model)
    kept = ("wte.", "wpe.", *(f"h.{layer}." for layer in range(layers))) if layers >= 0 else ()
    weights = {}
    for name, tensor in model.state_dict().items():
        if name.startswith(kept):
            weights[name] = tensor
    new = type(model)(model.config).to(model.device)
    new.load_state_dict(weights, strict=False)
    return new
