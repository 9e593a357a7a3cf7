"""
GPT-1's own tokenizer, and the weights that OpenAI released with it.

    python -m papers.gpt1 sample --prompt "the old man"     downloads the weights once
    python -m papers.gpt1 sample --model FOLDER --prompt …  a Hugging Face folder of GPT-1

GPT-1 has no special token between documents, so a text to continue must not be empty.

Paper: GPT-1 (Radford et al. 2018) §4.1.
"""
import json
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import regex
import torch

import gpt
from data import UserError, merge_pair, option

# Punctuation stands alone, Chinese characters stand alone, and a word ends at white space.
WORDS = regex.compile(r"[\p{P}$+<=>^`|~]|\p{Han}|[^\s\p{P}$+<=>^`|~\p{Han}]+")
ACCENTS_AND_CONTROLS = regex.compile(r"\p{Mn}|\p{C}(?<!\s)")

# Hugging Face's names of these tensors differ from OpenAI's, and so from ours.
RENAMED = {"tokens_embed.weight": "wte.weight", "positions_embed.weight": "wpe.weight"}


class GPT1Tokenizer:
    """Lower-cased words, merges of characters, </w> at the end of a word.

    Case and spacing are lost, and a character that is not in the vocabulary becomes <unk>: GPT-2's
    byte-level tokenizer has neither problem. The released code also ran ftfy and spaCy; here words
    are split as in transformers.
    """

    def __init__(self, folder: Path):
        """Read vocab.json and merges.txt. Raises UserError if they are not those of GPT-1."""
        try:
            content = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
            self.vocabulary = {str(token): int(index) for token, index in content.items()}
            lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
        except (ValueError, TypeError, AttributeError):
            raise UserError(f"{folder}: vocab.json and merges.txt are not those of GPT-1") from None
        if "<unk>" not in self.vocabulary:
            raise UserError(f"{folder}/vocab.json has no <unk>, which GPT-1's vocabulary has")
        self.tokens = {index: token for token, index in self.vocabulary.items()}
        self.order = {}  # pair -> when its merge was learned
        for line in lines:
            pair = tuple(line.split())
            if len(pair) == 2 and not line.startswith("#version"):
                self.order[pair] = len(self.order)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        text = unicodedata.normalize("NFD", text).lower()
        text = ACCENTS_AND_CONTROLS.sub("", text)
        ids = []
        for word in WORDS.findall(text):
            for token in self.merge(word):
                ids.append(self.vocabulary.get(token, self.vocabulary["<unk>"]))
        return ids

    def merge(self, word: str) -> list[str]:
        """The tokens of a word: the merge that was learned first is applied first."""
        parts = [*word[:-1], word[-1] + "</w>"]
        while True:
            pairs = [pair for pair in zip(parts, parts[1:]) if pair in self.order]
            if not pairs:
                return parts
            pair = min(pairs, key=self.order.get)
            parts = merge_pair(parts, pair, "".join(pair))

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids, in lower case, words separated by single spaces."""
        text = "".join(self.tokens[int(index)] for index in ids)
        return text.replace("</w>", " ").strip()


def load_weights(folder: Path) -> gpt.GPT:
    """The GPT-1 of a Hugging Face folder. UserError if it holds anything else."""
    try:
        form = {"model_type": "openai-gpt", "afn": "gelu", "layer_norm_epsilon": 1e-5}
        model = gpt.GPT(gpt.read_config(folder, form, post_norm=True))
        state = gpt.read_weights(folder)
        for name, ours in RENAMED.items():
            state[ours] = state.pop(name)
        model.load_state_dict(state)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(f"{folder} does not hold a GPT-1: {str(error)[:200]}") from None
    return model


@dataclass
class SampleOptions(gpt.SampleOptions):
    model: str = option("gpt1", "gpt1 (downloaded once), or a Hugging Face folder of GPT-1")


def sample(options: SampleOptions = SampleOptions()):
    """Continue a text with the released GPT-1."""
    if not options.prompt:
        raise UserError("GPT-1 needs a --prompt to begin with")
    folder = Path(options.model)
    if options.model == "gpt1" and not folder.exists():
        folder = gpt.download("openai-gpt")
    model = load_weights(folder).to(gpt.pick_device())
    tokenizer = GPT1Tokenizer(folder)
    ids = tokenizer.encode(options.prompt)
    if not ids:
        raise UserError("GPT-1 has no token for anything in this --prompt")
    generator = torch.Generator(model.device).manual_seed(options.seed)
    prompt = torch.tensor([ids], device=model.device)
    written = gpt.generate(model, prompt, options.tokens, generator=generator,
                           temperature=options.temperature, top_k=options.top_k,
                           top_p=options.top_p)
    print(tokenizer.decode(ids + written[0]))
