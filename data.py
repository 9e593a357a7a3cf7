# /// script
# requires-python = ">=3.10"
# dependencies = ["torch==2.13.0", "numpy", "tiktoken"]
# ///
"""
data.py: text in, integers out. Knows nothing of models.

A GPT reads integers. This file makes them: it trains a byte-level BPE tokenizer, packs documents into one
long stream of token ids, renders conversations, and generates the world, a small English web about a town,
which needs no download and in which every claim of an answer can be checked.

    python data.py                  the world and the tokenizer, shown (a few seconds)
    python data.py --data FILE      the same tokenizer view for your own text
    python data.py clean            GPT-3's data pipeline on a dirty crawl, or on your own with --data

Papers: GPT-2 §2.2 (byte-level BPE); GPT-3 (arXiv:2005.14165) App. B (packing); InstructGPT (arXiv:2203.02155)
§3.2-3.4, Tables 1 and 6 (prompts, labelers).

Contents
    1. Errors and commands: UserError, command_line, require
    2. Byte-pair encoding: train_bpe, Tokenizer, GPT1Tokenizer, show_merges
    3. Text and the token stream: load_text, write_stream, Batches
    4. GPT-1's inputs: classification_input, entailment_input, similarity_inputs, multiple_choice_inputs
    5. Conversations: render_conversation, right_pad, show_mask
    6. The reader's own data: load_labeled, load_demonstrations, load_comparisons
    7. The world, its people and its grammar: World
    8. The world's web: web
    9. Instructions and the labeler: Instruction, instructions, demonstrate, judge, gold, label
    10. GPT-1's tasks: gpt1_task
    11. GPT-2's tasks, put as text: gpt2_task, ngram_f1, rouge, bleu
    12. GPT-3's tasks, with examples in the prompt: few_shot_prompt, rule, gpt3_task
    13. GPT-3's data pipeline: quality_filter, deduplicate, decontaminate, mix, crawl, clean
    14. Main: show, clean_crawl

Letters: B batch, T time (tokens), K ranked responses, V vocabulary.
"""
from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gzip
import hashlib
import heapq
import http.client
import inspect
import itertools
import json
import math
import os
import random
import re
import sys
import time
import typing
import unicodedata
import urllib.error
import urllib.request
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import regex     # comes with tiktoken; the standard library's re has no \p{L}
import tiktoken

# ----------------------------------------------------------------------------------------------------------
# 1. Errors and commands: UserError, command_line, require


class UserError(Exception):
    """Something the reader can mend. `command_line` shows it as one line and exits with code 2."""


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UserError(f"{message} (try: python {self.prog} --help)")


def command_line(commands: dict[str, tuple[type, Callable]], default: str, argv: list[str] | None = None):
    """Run one command. `commands` maps a name to (settings dataclass, function of such settings).

    Each field of the dataclass is an option: its default, its type and the comment behind it become the
    --help text, so the settings are written once. Without a command name, `default` runs.
    Exit code 0 done, 2 for anything the reader can mend (one line on stderr), 130 for Ctrl-C.
    """
    program = Path(sys.argv[0]).name
    parser = _Parser(prog=program, allow_abbrev=False)
    subparsers = parser.add_subparsers(dest="command", metavar="command", parser_class=_Parser)
    for name, (settings_class, function) in commands.items():
        summary = inspect.getdoc(function).split("\n")[0]
        sub = subparsers.add_parser(name, prog=f"{program} {name}", help=summary, description=summary,
                                    allow_abbrev=False)
        comments = dict(re.findall(r"^    (\w+):[^#\n]*#\s*(.+)$", inspect.getsource(settings_class), re.M))
        hints = typing.get_type_hints(settings_class)
        for field in dataclasses.fields(settings_class):
            kind = next(t for t in (*typing.get_args(hints[field.name]), hints[field.name])
                        if t is not type(None))
            how = {"type": kind, "metavar": kind.__name__} if kind is not bool else {
                "action": argparse.BooleanOptionalAction}
            comment = comments.get(field.name, "").replace("%", "%%")
            sub.add_argument("--" + field.name.replace("_", "-"), default=field.default,
                             help=f"{comment} (default: {field.default})", **how)
        if name == default:
            parser.epilog = f"without a command it does {name}:\n\n{sub.format_help()}"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or (argv[0].startswith("-") and argv[0] not in ("-h", "--help")):
        argv = [default, *argv]
    try:
        options = vars(parser.parse_args(argv))
        settings_class, function = commands[options.pop("command")]
        settings = settings_class(**options)
        require(settings, 0, *(name for name, value in options.items() if isinstance(value, (int, float))))
        function(settings)
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        _fail(": ".join(str(part) for part in (error.filename, error.strerror) if part) or str(error))
    except (EOFError, zlib.error) as error:
        _fail(f"a compressed file is cut off or damaged: {error}")
    except KeyboardInterrupt:
        print("\ninterrupted; what was saved is kept, the same command (without --fresh) goes on",
              file=sys.stderr)
        sys.exit(130)


def require(settings: object, least: int, *names: str):
    """Raises UserError if one of these settings is below `least` (None means not set)."""
    for name in names:
        if (value := getattr(settings, name)) is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} must be at least {least}, not {value}")


def _fail(message: str):
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


# ----------------------------------------------------------------------------------------------------------
# 2. Byte-pair encoding: train_bpe, Tokenizer, GPT1Tokenizer, show_merges          [GPT-2 §2.2; GPT-1 §4.1]

# GPT-2's rule for where merges may not reach: contractions | letters | digits | other signs | white space.
# One leading space belongs to the word behind it. Possessive quantifiers (++) keep the regex linear.
SPLIT_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""

# Control tokens. They get the ids after the merges, and only code that appends ids can produce them: text
# that happens to spell "<|end|>" is encoded as those seven ordinary characters.
SPECIAL_TOKENS = ("<|endoftext|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")

MAX_CHUNK = 256        # characters; a longer "word" (a row of a million a's) teaches BPE nothing more
MAX_SPACES = 50_000    # a longer run of white space would overflow the stack of tiktoken's regex engine


def train_bpe(text: str | Iterable[str], vocab_size: int) -> dict[bytes, int]:
    """Learn a byte-level BPE vocabulary: start from the 256 bytes, then repeatedly give the most frequent
    pair of neighbouring tokens a token of its own. [Sennrich et al. 2016; GPT-2 §2.2]

    text: a string, or documents. Returns {token bytes: id}; ids 0..255 are the bytes, a larger id is a later
    merge. Ties go to the pair with the smallest ids, that is, to the older tokens. If the text runs out of
    pairs the vocabulary stays smaller than `vocab_size`. Raises UserError if vocab_size < 256.

    A pass over the text per merge would cost O(vocab x text). Here each distinct chunk is kept once with its
    count, `where` tells which chunks hold a pair, and a heap tells which pair comes next, so that a merge
    touches only the chunks that it changes.
    """
    if vocab_size < 256:
        raise UserError(f"a byte-level vocabulary has at least 256 tokens, not {vocab_size}")
    chunk_counts = Counter()
    for document in [text] if isinstance(text, str) else text:
        chunk_counts.update(regex.findall(SPLIT_PATTERN, document))
    chunks, counts = [], []                       # token ids of each distinct chunk, and how often it occurs
    for chunk, count in chunk_counts.items():
        for start in range(0, len(chunk), MAX_CHUNK):
            chunks.append(list(chunk[start:start + MAX_CHUNK].encode("utf-8", errors="replace")))
            counts.append(count)

    pair_counts, where = Counter(), defaultdict(set)  # where: pair -> indices into chunks (may be stale)
    for index, ids in enumerate(chunks):
        for pair in zip(ids, ids[1:]):
            pair_counts[pair] += counts[index]
            where[pair].add(index)
    heap = [(-count, pair) for pair, count in pair_counts.items()]
    heapq.heapify(heap)

    vocabulary = [bytes([byte]) for byte in range(256)]
    ranks = {token: i for i, token in enumerate(vocabulary)}
    while heap and len(vocabulary) < vocab_size:
        negative_count, pair = heapq.heappop(heap)
        if pair_counts[pair] != -negative_count:  # an old entry: the count has changed since it was pushed
            continue
        token = vocabulary[pair[0]] + vocabulary[pair[1]]
        if token in ranks:                        # two pairs can spell the same bytes: keep the first
            continue
        new_id = ranks[token] = len(vocabulary)
        vocabulary.append(token)

        changed = set()
        for index in where.pop(pair):
            ids, count = chunks[index], counts[index]
            merged = merge_pair(ids, pair, new_id)
            if len(merged) == len(ids):           # another merge has already taken this pair away
                continue
            for old in zip(ids, ids[1:]):
                pair_counts[old] -= count
                changed.add(old)
            for new in zip(merged, merged[1:]):
                pair_counts[new] += count
                changed.add(new)
                if new_id in new:                 # all other pairs know of this chunk already
                    where[new].add(index)
            chunks[index] = merged
        for pair in changed:                      # push once per merge, not once per chunk
            if pair_counts[pair] > 0:
                heapq.heappush(heap, (-pair_counts[pair], pair))
    return ranks


def merge_pair(ids: list[int], pair: tuple[int, int], new_id: int) -> list[int]:
    """Replace every `pair` in `ids` by `new_id`, from the left: ([a, a, a], (a, a), Z) -> [Z, a]."""
    merged, i, last = [], 0, len(ids) - 1
    while i <= last:
        if i < last and ids[i] == pair[0] and ids[i + 1] == pair[1]:
            merged.append(new_id)
            i += 2
        else:
            merged.append(ids[i])
            i += 1
    return merged


class Tokenizer:
    """Text <-> token ids. The merges are ours; tiktoken applies them, because it is fast.

    ranks: {token bytes: id} as `train_bpe` returns it. The special tokens get ids len(ranks), len(ranks)+1 …
    """

    def __init__(self, ranks: dict[bytes, int]):
        if (sorted(ranks.values()) != list(range(len(ranks)))
                or any(bytes([b]) not in ranks for b in range(256))):
            raise UserError("a tokenizer needs the ids 0..n-1, once each, "
                            "and all 256 single bytes among them")
        self.ranks = ranks
        self.special = {name: len(ranks) + i for i, name in enumerate(SPECIAL_TOKENS)}
        self.vocab_size = len(ranks) + len(self.special)
        self.eot, self.pad = self.special["<|endoftext|>"], self.special["<|pad|>"]
        self.end = self.special["<|end|>"]            # closes a turn of a conversation
        self.encoding = tiktoken.Encoding("papergpt", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks,
                                          special_tokens=self.special)

    def encode(self, text: str) -> list[int]:
        """Ids of ordinary text. Never a special id, whatever the text spells."""
        if len(text) > MAX_SPACES and regex.search(r"\s{%d}" % MAX_SPACES, text):
            cuts = range(0, len(text), MAX_SPACES)
            return [i for cut in cuts for i in self.encoding.encode_ordinary(text[cut:cut + MAX_SPACES])]
        return self.encoding.encode_ordinary(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; bytes that are not UTF-8 become U+FFFD. Raises UserError on an id out of range."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        try:
            return self.encoding.decode_bytes([int(i) for i in ids])
        except (KeyError, OverflowError) as error:
            raise UserError(f"token id {error} is not in this vocabulary of {self.vocab_size}") from None

    def to_json(self) -> str:
        """All there is to know, as text: token bytes in the order of their ids, one character per byte."""
        tokens = [token.decode("latin-1") for token in sorted(self.ranks, key=self.ranks.get)]
        return json.dumps({"format": "papergpt-bpe", "tokens": tokens, "special_tokens": SPECIAL_TOKENS})

    @staticmethod
    def from_json(text: str) -> Tokenizer:
        try:
            content = json.loads(text)
            return Tokenizer({token.encode("latin-1"): i for i, token in enumerate(content["tokens"])})
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError("this is not a tokenizer that Tokenizer.save wrote") from None

    def save(self, path: str | Path):
        with atomic_write(path) as file:
            file.write(self.to_json().encode())

    @staticmethod
    def load(path: str | Path) -> Tokenizer:
        return Tokenizer.from_json(Path(path).read_text(encoding="utf-8", errors="replace"))

    def pairs(self) -> list[tuple[bytes, bytes]]:
        """The two parts that each merge joins, first learned first: what is left of a token's bytes when all
        earlier merges have been applied to them."""
        vocabulary = sorted(self.ranks, key=self.ranks.get)
        pairs = []
        for rank, token in enumerate(vocabulary[256:], start=256):
            parts = [bytes([byte]) for byte in token]
            while len(parts) > 2:
                ranks = [self.ranks.get(a + b, rank) for a, b in zip(parts, parts[1:])]
                i = ranks.index(min(ranks))
                parts[i:i + 2] = [parts[i] + parts[i + 1]]
            pairs.append(tuple(parts))
        return pairs

    def to_huggingface(self, folder: Path):
        """vocab.json, merges.txt and tokenizer_config.json, from which transformers makes the same tokenizer.
        Raises UserError if the 256 bytes are not the first tokens."""
        if any(rank < 256 and len(token) > 1 for token, rank in self.ranks.items()):
            raise UserError("this tokenizer cannot be exported: its first 256 tokens are not the bytes")
        written = {byte: character for character, byte in printable_bytes().items()}
        spell = lambda token: "".join(written[byte] for byte in token)
        special = {str(i): {"content": name, "special": True, "normalized": False, "lstrip": False,
                            "rstrip": False, "single_word": False} for name, i in self.special.items()}
        files = {"vocab.json": json.dumps({**{spell(t): i for t, i in self.ranks.items()}, **self.special}),
                 "merges.txt": "\n".join(["#version: 0.2",
                                          *(f"{spell(a)} {spell(b)}" for a, b in self.pairs())]),
                 "tokenizer_config.json": json.dumps({
                     "tokenizer_class": "GPT2Tokenizer", "added_tokens_decoder": special,
                     "pad_token": "<|pad|>",
                     **{f"{part}_token": "<|endoftext|>" for part in ("bos", "eos", "unk")}})}
        for name, content in files.items():
            with atomic_write(Path(folder) / name) as file:
                file.write(content.encode())

    @staticmethod
    def from_huggingface(folder: Path) -> Tokenizer:
        """The tokenizer of a GPT-2 folder (vocab.json and merges.txt). Raises UserError if it is none."""
        byte_of = printable_bytes()
        read = lambda token: bytes(byte_of[character] for character in token)
        try:
            vocabulary = json.loads((Path(folder) / "vocab.json").read_text(encoding="utf-8"))
            merges = [line.split() for line in
                      (Path(folder) / "merges.txt").read_text(encoding="utf-8").splitlines()
                      if line and not line.startswith("#version")]
            tokens = [*byte_of, *(a + b for a, b in merges)]
            return Tokenizer({read(token): vocabulary[token] for token in tokens})
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{folder}: vocab.json and merges.txt are not those of GPT-2") from None

    @staticmethod
    def gpt2() -> Tokenizer:
        """GPT-2's own 50,257 tokens, from tiktoken, which downloads them once. Our extra control tokens come
        behind them. Raises UserError where they are neither cached nor to be had."""
        try:
            return Tokenizer(tiktoken.get_encoding("gpt2")._mergeable_ranks)
        except Exception as error:   # requests' many errors, a bad checksum, an unwritable cache
            raise UserError("GPT-2's vocabulary is not on this machine and could not be downloaded "
                            f"({type(error).__name__}); connect once, or set TIKTOKEN_CACHE_DIR to a folder "
                            "that holds it") from None


def printable_bytes() -> dict[str, int]:
    """GPT-2's way to write any bytes in a text file: {character: byte}. Bytes that are printable characters
    stand for themselves, the others for characters from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {**{chr(byte): byte for byte in printable},
            **{chr(256 + i): byte for i, byte in enumerate(others)}}


class GPT1Tokenizer:
    """GPT-1's: lower-cased words, merges of characters, </w> at the end of a word. Case and spacing are lost,
    and a character that it does not know is <unk>: what GPT-2's bytes did away with.

    The released code also ran ftfy and spaCy; here a word ends at white space and punctuation stands alone,
    as in transformers.
    """
    eot = None

    def __init__(self, vocabulary: dict[str, int], merges: list[tuple[str, str]]):
        self.vocabulary, self.tokens = vocabulary, {i: token for token, i in vocabulary.items()}
        self.order = {tuple(pair): i for i, pair in enumerate(merges)}
        self.vocab_size = len(vocabulary)

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""
        text = unicodedata.normalize("NFD", text).lower()
        text = regex.sub(r"\p{Mn}|\p{C}(?<!\s)", "", text)                 # accents and control characters
        words = regex.findall(r"[\p{P}$+<=>^`|~]|\p{Han}|[^\s\p{P}$+<=>^`|~\p{Han}]+", text)
        tokens = [token for word in words for token in self._merge(word)]
        return [self.vocabulary.get(token, self.vocabulary["<unk>"]) for token in tokens]

    def _merge(self, word: str) -> list[str]:
        parts = [*word[:-1], word[-1] + "</w>"]
        while pairs := [pair for pair in zip(parts, parts[1:]) if pair in self.order]:
            pair = min(pairs, key=self.order.get)
            parts = merge_pair(parts, pair, "".join(pair))
        return parts

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids, in lower case, with a space behind every word."""
        return "".join(self.tokens[int(i)] for i in ids).replace("</w>", " ").strip()

    @staticmethod
    def from_huggingface(folder: Path) -> GPT1Tokenizer:
        """The tokenizer of a GPT-1 folder (vocab.json and merges.txt). Raises UserError if it is none."""
        try:
            vocabulary = json.loads((Path(folder) / "vocab.json").read_text(encoding="utf-8"))
            lines = (Path(folder) / "merges.txt").read_text(encoding="utf-8").splitlines()
            merges = [tuple(line.split()) for line in lines
                      if len(line.split()) == 2 and not line.startswith("#version")]
            return GPT1Tokenizer({str(token): int(i) for token, i in vocabulary.items()}, merges)
        except (ValueError, TypeError, AttributeError):
            raise UserError(f"{folder}: vocab.json and merges.txt are not those of GPT-1") from None


def show_merges(tokenizer: Tokenizer, text: str) -> str:
    """The merges at work, in colour: one line per merge, from single bytes to the final tokens."""
    lines = []
    chunks = [list(chunk.encode("utf-8", errors="replace")) for chunk in regex.findall(SPLIT_PATTERN, text)]
    vocabulary = {i: token for token, i in tokenizer.ranks.items()}
    chunks = [[tokenizer.ranks[bytes([byte])] for byte in chunk] for chunk in chunks]
    while True:
        tokens = [vocabulary[i] for chunk in chunks for i in chunk]
        lines.append(_in_colour(tokens) + f"   {len(tokens)} tokens")
        candidates = {pair: tokenizer.ranks.get(vocabulary[pair[0]] + vocabulary[pair[1]])
                      for chunk in chunks for pair in zip(chunk, chunk[1:])}
        candidates = {pair: rank for pair, rank in candidates.items() if rank is not None}
        if not candidates:
            return "\n".join(lines)
        pair = min(candidates, key=candidates.get)    # the merge that was learned first is applied first
        chunks = [merge_pair(chunk, pair, candidates[pair]) for chunk in chunks]


def _in_colour(tokens: list[bytes], marks: Iterable[int] | None = None) -> str:
    """Tokens on alternating backgrounds; with `marks`, green where the mark is 1 and grey elsewhere."""
    colours = (itertools.cycle((44, 45, 46, 42)) if marks is None else
               (42 if mark else 100 for mark in marks))
    texts = [token.decode("utf-8", errors="replace").replace("\n", "\\n") for token in tokens]
    if not sys.stdout.isatty():                       # a file or a pipe: bars instead of colours
        return "|".join(texts) if marks is None else "".join(
            f"[{text}]" if colour == 42 else text for text, colour in zip(texts, colours))
    return "".join(f"\x1b[{colour};97m{text}\x1b[0m" for text, colour in zip(texts, colours))


# ----------------------------------------------------------------------------------------------------------
# 3. Text and the token stream: load_text, write_stream, Batches                    [GPT-2 §2.1; GPT-3 App. B]

KNOWN_TEXTS = {
    "tinyshakespeare": "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/"
                       "tinyshakespeare/input.txt",
}
PIECE = 1 << 20    # characters; a longer document is read in pieces, so that a file may be larger than memory


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[typing.BinaryIO]:
    """A file that appears whole or not at all: written beside its place, then renamed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_text(source: str | Path) -> Iterator[str]:
    """Documents of a file, a folder, a URL or a known name (KNOWN_TEXTS), one by one, in bounded memory.

    A `.jsonl` file holds one document per line under "text"; in any other file documents are separated by
    <|endoftext|>. `.gz` is read through. A document longer than PIECE comes in several pieces.
    Raises UserError for what is missing, empty or binary.
    """
    source = KNOWN_TEXTS.get(str(source), str(source))
    path = download(source) if source.startswith(("http://", "https://")) else Path(source)
    if not path.exists():
        raise UserError(f"no file, folder or known text is called {source!r} "
                        f"(known: {', '.join((*WEBS, *KNOWN_TEXTS))})")
    files = [path] if not path.is_dir() else sorted(p for p in path.rglob("*") if p.is_file())
    found = False
    for file in files:
        for document in _documents(file):
            if document.strip():
                found = True
                yield document
    if not found:
        raise UserError(f"{source} holds no text")


def _documents(path: Path) -> Iterator[str]:
    if path.name.removesuffix(".gz").endswith(".jsonl"):
        for number, record in read_records(path):
            if not isinstance(record, dict) or not isinstance(record.get("text"), str):
                raise UserError(f"{path}:{number}: expected an object with a \"text\"")
            yield record["text"]
        return
    with _open(path) as file:
        rest = ""
        while block := file.read(PIECE):
            if "\0" in block:
                raise UserError(f"{path} is not text (it holds zero bytes)")
            *whole, rest = (rest + block).split(SPECIAL_TOKENS[0])
            yield from whole
            while len(rest) > 2 * PIECE:
                cut = max(rest.rfind("\n", 0, PIECE), rest.rfind(" ", 0, PIECE)) + 1 or PIECE
                yield rest[:cut]
                rest = rest[cut:]
        yield rest


def _open(path: Path):
    """Text of a plain or gzipped file; bytes that are not UTF-8 become U+FFFD."""
    opener = gzip.open if path.name.endswith(".gz") else open
    return opener(path, "rt", encoding="utf-8", errors="replace", newline="")


def download(url: str, path: Path | None = None, sha256: str | None = None) -> Path:
    """The file behind `url`, fetched once: to `path`, else into the cache. What breaks off goes on from there
    the next time. The file appears when its size, and its checksum where one is given, are right. Raises
    UserError if they are not, or if nothing can be reached."""
    own_name = f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{Path(url).name or 'file'}"
    path = path or cache_folder() / own_name
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    done = part.stat().st_size if part.exists() else 0
    print(f"downloading {url}", file=sys.stderr)
    try:
        request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
        with urllib.request.urlopen(request, timeout=30) as response, open(part, "ab") as file:
            if response.status != 206:                         # the whole file comes, not the rest of it
                file.truncate(done := 0)
            size = done + int(response.headers["Content-Length"] or 0)
            while block := response.read(PIECE):
                file.write(block)
                done += len(block)
                if sys.stderr.isatty():
                    end = "\n" if done >= size else ""
                    print(f"\r{done / 1e6:,.0f} of {size / 1e6:,.0f} MB", end=end, file=sys.stderr)
    except urllib.error.HTTPError as error:
        if error.code == 416:                                  # there is no such rest
            part.unlink()
            return download(url, path, sha256)
        raise UserError(f"could not download {url}: {error}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:      # no net, a broken line, no URL
        raise UserError(f"could not download {url}: {error}; what has come is kept") from None
    if done < size:
        raise UserError(f"{url} broke off after {done:,} of {size:,} bytes; "
                        "the same command goes on from here")
    if sha256:
        digest = hashlib.sha256()
        with open(part, "rb") as file:
            while block := file.read(PIECE):
                digest.update(block)
        if digest.hexdigest() != sha256:
            part.unlink()
            raise UserError(f"what came from {url} has another checksum than it should; try again")
    os.replace(part, path)
    return path


def cache_folder() -> Path:
    """Where downloads are kept: ~/.cache/papergpt, or PAPERGPT_CACHE."""
    return Path(os.environ.get("PAPERGPT_CACHE", Path.home() / ".cache" / "papergpt"))


def write_stream(documents: Iterable[str], tokenizer: Tokenizer, folder: str | Path) -> dict:
    """Tokenize documents into folder/train.bin and folder/val.bin; returns counts.

    Documents are packed one behind another with <|endoftext|> after each [GPT-3 App. B]. Every tenth document
    is for validation; fewer than ten are too few for that, and then the last tenth of the tokens is.
    Ids are written as they come, two bytes each (four if the vocabulary needs them), so memory stays flat.
    """
    folder = Path(folder)
    dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
    counts = {"documents": 0, "train_tokens": 0, "val_tokens": 0, "bytes": 0, "dtype": dtype.__name__}
    with atomic_write(folder / "train.bin") as train, atomic_write(folder / "val.bin") as val:
        for number, document in enumerate(documents):
            ids = np.array([*tokenizer.encode(document), tokenizer.eot], dtype=dtype)
            name, file = ("val", val) if number % 10 == 9 else ("train", train)
            file.write(ids.tobytes())
            counts[f"{name}_tokens"] += len(ids)
            counts["documents"] += 1
            counts["bytes"] += len(document.encode("utf-8", errors="replace"))
        if counts["documents"] < 10:
            counts["val_tokens"] = counts["train_tokens"] // 10
            counts["train_tokens"] -= counts["val_tokens"]
            train.flush()
            stream = np.fromfile(train.name, dtype=dtype)
            val.write(stream[counts["train_tokens"]:].tobytes())
            train.truncate(counts["train_tokens"] * dtype().itemsize)
    return counts


def open_stream(path: str | Path, dtype: str) -> np.ndarray:
    """A token file as an array that is paged in as it is read, (number of tokens,)."""
    if not Path(path).stat().st_size:
        return np.empty(0, dtype)
    return np.memmap(path, dtype=dtype, mode="r")


class Batches:
    """Endless random windows of a token stream: next() -> x, y, both (B, T), y one token ahead of x.

    Its own seeded generator decides, and `state` says where it stands, so a resumed run reads on exactly.
    Raises UserError if the stream is shorter than one window.
    """

    def __init__(self, stream: np.ndarray, batch_size: int, block_size: int, seed: int):
        if len(stream) < block_size + 1:
            raise UserError(f"the text has only {len(stream)} tokens in this split, but one training "
                            f"window takes {block_size + 1}: use a longer text or a smaller --block-size")
        self.stream, self.batch_size, self.block_size = stream, batch_size, block_size
        self.rng = np.random.default_rng(seed)

    def next(self) -> tuple[np.ndarray, np.ndarray]:
        starts = self.rng.integers(0, len(self.stream) - self.block_size, size=self.batch_size)
        windows = np.stack([self.stream[s:s + self.block_size + 1]
                            for s in starts]).astype(np.int64)                 # (B, T+1)
        return windows[:, :-1], windows[:, 1:]

    @property
    def state(self) -> str:
        return json.dumps(self.rng.bit_generator.state)

    @state.setter
    def state(self, state: str):
        self.rng.bit_generator.state = json.loads(state)


# ----------------------------------------------------------------------------------------------------------
# 4. GPT-1's inputs: classification_input, entailment_input, similarity_inputs, multiple_choice_inputs
#                                                                                       [GPT-1 §3.3, Fig. 1]

NEW_TOKENS = 3


def classification_input(tokenizer: Tokenizer, text: str, limit: int) -> list[list[int]]:
    """[start] text [extract]"""
    return [_sequence(tokenizer, limit, text)]


def entailment_input(tokenizer: Tokenizer, premise: str, hypothesis: str, limit: int) -> list[list[int]]:
    """[start] premise [delimiter] hypothesis [extract]"""
    return [_sequence(tokenizer, limit, premise, hypothesis)]


def similarity_inputs(tokenizer: Tokenizer, a: str, b: str, limit: int) -> list[list[int]]:
    """Two sequences, because neither text comes first: a [delimiter] b and b [delimiter] a."""
    return [_sequence(tokenizer, limit, a, b), _sequence(tokenizer, limit, b, a)]


def multiple_choice_inputs(tokenizer: Tokenizer, context: str, question: str, answers: list[str],
                           limit: int) -> list[list[int]]:
    """One sequence per answer: [start] context question [delimiter] answer [extract]"""
    return [_sequence(tokenizer, limit, f"{context} {question}", answer) for answer in answers]


def _sequence(tokenizer: Tokenizer, limit: int, *texts: str) -> list[int]:
    """GPT-1's three new tokens come behind the tokenizer's own: start, delimiter, extract. What is longer
    than `limit` tokens loses the front of its longest text: a question stands at the end of its context."""
    start, delimiter, extract = range(tokenizer.vocab_size, tokenizer.vocab_size + NEW_TOKENS)
    parts = [tokenizer.encode(" " + text) for text in texts]
    while sum(map(len, parts)) + len(parts) + 1 > limit:
        del max(parts, key=len)[0]
    return [start, *parts[0], *(token for part in parts[1:] for token in (delimiter, *part)), extract]


# ----------------------------------------------------------------------------------------------------------
# 5. Conversations: render_conversation, right_pad, show_mask

ROLES = ("system", "user", "assistant")


def render_conversation(tokenizer: Tokenizer, messages: list[dict],
                        reply: bool = False) -> tuple[list[int], list[int]]:
    """Messages [{"role", "content"}, …] to (ids, mask): <|endoftext|>, then per turn
    <|role|>, content, <|end|>.

    A content starts with one space, so that its first word is the token that the word is inside a text,
    which is how pretraining knows it. mask is 1 exactly on what the assistant must learn to write: the
    contents of its turns and the <|end|> behind them. With reply=True the ids stop behind a fresh
    <|assistant|>, where a model goes on.
    Contents are data: control tokens spelled in them stay text. Raises UserError on any other shape.
    """
    ids, mask = [tokenizer.eot], [0]
    for message in messages:
        role, content = message.get("role"), message.get("content")
        if role not in ROLES or not isinstance(content, str):
            raise UserError(f"a message needs a role among {', '.join(ROLES)} and a content that is text, "
                            f"not {message!r:.80}")
        turn = [*tokenizer.encode(" " + content), tokenizer.end]
        ids += [tokenizer.special[f"<|{role}|>"], *turn]
        mask += [0, *[int(role == "assistant")] * len(turn)]
    if reply:
        ids.append(tokenizer.special["<|assistant|>"])
        mask.append(0)
    return ids, mask


def right_pad(rows: list[list[int]], value: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of different length to one array (B, T) filled up on the right, and their lengths (B,).

    On the right, because attention is causal: nothing before a pad can see it, and every token keeps the
    position that it was trained with.
    """
    lengths = np.array([len(row) for row in rows])
    padded = np.full((len(rows), lengths.max()), value, dtype=np.int64)
    for i, row in enumerate(rows):
        padded[i, :len(row)] = row
    return padded, lengths


def show_mask(tokenizer: Tokenizer, messages: list[dict]) -> str:
    """A rendered conversation with the tokens that carry loss marked: the debugging view every SFT needs."""
    ids, mask = render_conversation(tokenizer, messages)
    return _in_colour([tokenizer.decode_bytes([i]) for i in ids], mask)


# ----------------------------------------------------------------------------------------------------------
# 6. The reader's own data: load_labeled, load_demonstrations, load_comparisons


@dataclass(slots=True)
class Labeled:
    """One case of a task: the texts that the task's input format takes, and its class (in multiple choice,
    the place of the right answer)."""
    texts: tuple
    label: int


def load_labeled(path: str | Path) -> list[Labeled]:
    """Lines of `sentence TAB label`, labels 0, 1, 2 … Raises UserError with the line that is another."""
    cases = []
    with _open(Path(path)) as file:
        for number, line in enumerate(file, start=1):
            text, tab, label = line.rstrip("\r\n").rpartition("\t")
            if line.strip() and not (text.strip() and label.isdecimal() and len(label) < 3):
                raise UserError(f"{path}:{number}: expected a sentence, a tab and a class 0, 1, 2 … 99")
            if line.strip():
                cases.append(Labeled((text,), int(label)))
    if not cases:
        raise UserError(f"{path} holds no labeled sentence")
    return cases


@dataclass(slots=True)
class Comparison:
    """Answers to one prompt, ranked by one labeler. ranks: 0 is best, equal ranks are ties."""
    messages: list[dict]
    responses: list[str]
    ranks: list[int]


def read_records(path: str | Path) -> Iterator[tuple[int, object]]:
    """(number, record) of a .json list, or of .jsonl lines; .gz is read through.
    Raises UserError with the line."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"no file is called {path}")
    try:
        with _open(path) as file:
            if path.name.removesuffix(".gz").endswith(".json"):
                content = json.load(file)
                yield from enumerate(content if isinstance(content, list) else [content], start=1)
                return
            for number, line in enumerate(file, start=1):
                if line.strip():
                    try:
                        record = json.loads(line)
                    except ValueError as error:
                        raise UserError(f"{path}:{number}: not valid JSON ({error})") from None
                    yield number, record
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None


def load_demonstrations(path: str | Path) -> list[list[dict]]:
    """Conversations that end with the assistant's turn, from the shapes the field uses:

        {"messages": [{"role", "content"}, …]}          {"prompt", "response"}
        {"instruction", "input"?, "output"}             {"instruction", "instances": [{"input", "output"}]}

    Empty answers are skipped. Raises UserError with file and line where a record has none of these shapes, or
    if nothing is left.
    """
    demonstrations, skipped = [], Counter()
    for number, record in read_records(path):
        record = record if isinstance(record, dict) else {}
        if "messages" in record:
            found = [record["messages"]]
        elif "prompt" in record:
            found = [_turns(record["prompt"]) + [_turn("assistant", record.get("response"))]]
        else:
            instances = record.get("instances", [record])
            instances = [i for i in instances if isinstance(i, dict)] if isinstance(instances, list) else []
            found = [[_turn("user", _join(record.get("instruction"), instance.get("input"))),
                      _turn("assistant", instance.get("output"))] for instance in instances or [{}]]
        for messages in found:
            if _check(messages, f"{path}:{number}")[-1]["content"].strip():
                demonstrations.append(messages)
            else:
                skipped["empty answer"] += 1
    _report(path, "demonstrations", len(demonstrations), skipped)
    return demonstrations


def load_comparisons(path: str | Path) -> list[Comparison]:
    """Ranked answers, from the shapes the field uses:

        {"chosen": "\\n\\nHuman: … \\n\\nAssistant: …", "rejected": …}
            (HH: two dialogues, equal up to the last turn)
        {"prompt", "chosen", "rejected"}    {"prompt", "responses": [best, …, worst], "ranks"?: [0, 1, 1, …]}

    "prompt" may also be called "messages", and be text or a list of turns. HH pairs that differ before the
    last turn are skipped: they do not compare two answers to one prompt. Empty answers too. Raises UserError
    with file and line where a record has none of these shapes.
    """
    comparisons, skipped = [], Counter()
    for number, record in read_records(path):
        place = f"{path}:{number}"
        record = record if isinstance(record, dict) else {}
        prompt = record.get("prompt", record.get("messages"))
        responses = record.get("responses", [record.get("chosen"), record.get("rejected")])
        if not (isinstance(responses, list) and len(responses) >= 2
                and all(isinstance(response, str) for response in responses)):
            raise UserError(f"{place}: expected two or more answers that are text")
        if prompt is None and all("Assistant:" in response for response in responses):
            dialogues = [_hh_turns(response) for response in responses]
            if any(d[:-1] != dialogues[0][:-1] or not d[:-1] or d[-1]["role"] != "assistant"
                   for d in dialogues):
                skipped["the dialogues differ before the last turn"] += 1
                continue
            prompt, responses = dialogues[0][:-1], [dialogue[-1]["content"] for dialogue in dialogues]
        ranks = record.get("ranks", list(range(len(responses))))
        messages = _check(_turns(prompt) + [_turn("assistant", responses[0])], place)[:-1]
        if not (isinstance(ranks, list) and len(ranks) == len(responses)
                and all(type(rank) is int and rank >= 0 for rank in ranks)):
            raise UserError(f"{place}: expected as many ranks as answers, whole numbers from 0, best first")
        if all(response.strip() for response in responses):
            comparisons.append(Comparison(messages, responses, ranks))
        else:
            skipped["empty answer"] += 1
    _report(path, "comparisons", len(comparisons), skipped)
    return comparisons


def _report(path: str | Path, what: str, count: int, skipped: Counter):
    why = "".join(f", {n} skipped ({reason})" for reason, n in skipped.items())
    if not count:
        raise UserError(f"{path} holds no {what}{why}")
    print(f"{path}: {count} {what} read{why}")


def _turn(role: str, content: object) -> dict:
    return {"role": role, "content": content}


def _turns(prompt: object) -> list[dict]:
    return list(prompt) if isinstance(prompt, list) else [_turn("user", prompt)]


def _join(instruction: object, text: object) -> object:
    both = isinstance(instruction, str) and isinstance(text, str) and text
    return f"{instruction}\n\n{text}" if both else instruction


def _check(messages: object, place: str) -> list[dict]:
    good = isinstance(messages, list) and messages and all(
        isinstance(m, dict) and m.get("role") in ROLES and isinstance(m.get("content"), str)
        for m in messages)
    if not good or messages[-1]["role"] != "assistant":
        raise UserError(f"{place}: expected a conversation that ends with an answer; see "
                        "load_demonstrations and load_comparisons in data.py for the shapes that are read")
    return messages


def _hh_turns(dialogue: str) -> list[dict]:
    parts = re.split(r"\n\n(Human|Assistant): ?", dialogue)[1:]
    return [_turn("user" if who == "Human" else "assistant", text)
            for who, text in zip(parts[::2], parts[1::2])]


# ----------------------------------------------------------------------------------------------------------
# 7. The world, its people and its grammar: World

# What can be said of a person: topic -> (values, statements, questions). {n} is the person, {v} the value.
TOPICS = {
    "home": ("Oslo Rome Paris Lima Cairo Delhi Quito Tokyo Berlin Dublin Havana Sydney".split(),
             ("{n} lives in {v}.", "{n}'s home is in {v}."),
             ("Where does {n} live?", "In which city does {n} live?")),
    "job": ("baker doctor teacher painter farmer singer sailor tailor miller cook guard judge".split(),
            ("{n} works as a {v}.", "{n} is a {v} by trade."),
            ("What is {n}'s job?", "What does {n} do for a living?")),
    "food": ("soup bread cheese rice cake fish honey pasta salad pie corn jam".split(),
             ("{n} likes to eat {v}.", "{n}'s favorite food is {v}."),
             ("What does {n} like to eat?", "What is {n}'s favorite food?")),
    "pet": ("cat dog parrot rabbit turtle goat pony duck frog mouse snake hen".split(),
            ("{n} has a {v}.", "{n} keeps a {v} at home."),
            ("Which pet does {n} have?", "What animal does {n} keep?")),
    "color": ("red blue green black white pink brown gray gold purple yellow silver".split(),
              ("{n} always wears {v}.", "{n}'s favorite color is {v}."),
              ("Which color does {n} wear?", "What is {n}'s favorite color?")),
}
FORUM_QUESTION = "Does anyone know {n}'s {t}?"
PEOPLE = """\
Mia Ben Zoe Tom Ann Max Eva Sam Lily Jack Nora Paul Ruth Hugo Ivy Carl Ella Finn Rosa Otto Anna Luke
Clara Mark Alice Peter Emma Simon Julia Victor Helen Oscar Laura Felix Martha Bruno Sophie Arthur Irene
Walter""".split()
STRANGERS = """\
Quill Zane Orla Fritz Thora Igor Wanda Yuri Selma Boris Greta Milo Petra Silas Nadia Rufus Hedda
Cyrus Linus Odette Basil Tilda Magnus Freya""".split()      # asked about; no story knows them
GUESTS = "Kim Leo Amy Roy Joy Ned Pam Guy Sue Ted Meg Art Dot Jim Liz Ron Peg Hal Fay Gus".split()

# What a guest can tell in a conversation: topic -> (telling, asking, answer).
MEMORIES = {
    "name": ("My name is {v}.", "What is my name?", "Your name is {v}."),
    "home": ("I live in {v}.", "Where do I live?", "You live in {v}."),
    "food": ("I like to eat {v}.", "What do I like to eat?", "You like to eat {v}."),
    "pet": ("I have a {v}.", "Which pet do I have?", "You have a {v}."),
    "color": ("My favorite color is {v}.", "What is my favorite color?", "Your favorite color is {v}."),
}
LISTS = {"cities": "home", "jobs": "job", "foods": "food", "animals": "pet", "colors": "color"}
NUMBERS = ("zero", "one", "two", "three", "four")
HAPPY = "wonderful lovely great perfect excellent tasty charming superb".split()
SAD = "awful terrible horrible dreadful boring nasty dull bad".split()
VERBS = "Bring Pass Give Show Hand Sell".split()
SUMMANDS = range(1, 6)
THINGS = "ball book key lamp hat coin letter spoon".split()
PLACES = "box drawer basket kitchen garden cellar barn bag".split()

SMALL_TALK = (
    ("Hello!", "Hello! How can I help you?"), ("How are you?", "I am fine, thank you."),
    ("Thank you!", "You are welcome."), ("Good morning!", "Good morning! How can I help you?"),
    ("It is cold today.", "Then stay inside."), ("I am tired.", "You should get some rest."),
    ("I am hungry.", "The market is open."), ("It is late.", "The day is almost over."),
    ("What a fine day!", "Yes, the sun is out."), ("Are you a machine?", "Yes, I am a small model."),
)

SIZES = {"big": True, "large": True, "wide": True, "small": False, "little": False, "narrow": False}
SYLLABLES = [consonant + vowel for consonant in "bdfklmnprstvz" for vowel in "aeiou"]   # a foreign language's

ECHOED = [*THINGS, *PLACES, *GUESTS, *(v for values, _, _ in TOPICS.values() for v in values)]

REFUSALS = ("I do not know.", "I do not know that.")
RUDE = ("What a stupid question.", "Go away, you fool.", "Nobody cares, you idiot.",
        "Are you too lazy to look?")
COURTESY = ("Happy to help.", "You are welcome.", "I hope that helps.")
EVASIVE = ("Who knows.", "That depends.", "I heard about it once.", "Ask somebody else.")
ASIDES = ("It was a quiet morning.", "The market was full of people.", "Everyone laughed.",
          "The wind was cold.", "Later it began to rain.", "Nobody was in a hurry.",
          "The bells rang at noon.", "The sun went down.")


class World:
    """A town made from a seed: who lives where, does what, eats what, keeps what, wears what.

    facts: {(person, topic): value}, everything that is true. meaning: {sentence: (person, topic, value)},
    every statement that this English can make about a person, true or not; so any answer can be checked.

    Held out, so that a test asks for what no demonstration, comparison or PPO prompt has shown: fourteen
    people (of whose five facts three are told in stories and never asked for anywhere), ten strangers, and a
    fifth of the combinations in every other kind of task: every fifth sum, order, trip …
    """

    def __init__(self, seed: int = 0):
        self.seed = seed
        rng = random.Random(f"world {seed}")
        self.people, self.strangers = rng.sample(PEOPLE, len(PEOPLE)), rng.sample(STRANGERS, len(STRANGERS))
        self.facts = {(n, topic): rng.choice(values)
                      for n in self.people for topic, (values, _, _) in TOPICS.items()}
        self.meaning = {statement.format(n=n, v=v): (n, topic, v)
                        for topic, (values, statements, _) in TOPICS.items()
                        for statement in statements for v in values for n in self.people + self.strangers}
        words = random.Random(f"language {seed}").sample(list(itertools.product(SYLLABLES, repeat=2)), 24)
        self.foreign = dict(zip(TOPICS["color"][0] + TOPICS["pet"][0], map("".join, words)))

    def people_of(self, split: str) -> list[str]:
        return self.people[:-14] if split == "train" else self.people[-14:]

    def topics_of(self, n: str, split: str) -> list[str]:
        """What may be asked about a person: of held-out people, the forum asks for two facts, tests for the
        other three."""
        place = self.people.index(n) - (len(self.people) - 14)
        if place < 0:
            return list(TOPICS)
        return [topic for i, topic in enumerate(TOPICS) if ((place + i) % 5 < 2) == (split == "train")]

    def strangers_of(self, split: str) -> list[str]:
        return self.strangers[:-10] if split == "train" else self.strangers[-10:]

    def state(self, rng: random.Random, n: str, topic: str, v: str | None = None) -> str:
        """One way to say that the person's `topic` is v (by default: what is true)."""
        return rng.choice(TOPICS[topic][1]).format(n=n, v=v or self.facts[n, topic])

    # ---- small scenes that both the web and the instructions are made of; each is held out by combination

    def pick(self, rng: random.Random, split: str, *choices: list) -> list:
        """A random combination, one of each choice, that belongs to `split`: every fifth diagonal is for
        "test", so each single choice occurs in both splits and only the combination is new."""
        while True:
            picked = [rng.randrange(len(choice)) for choice in choices]
            diagonal = self.seed + sum(weight * index for weight, index in enumerate(picked, start=1))
            if (diagonal % 5 == 0) == (split == "test"):
                return [choice[index] for choice, index in zip(choices, picked)]

    def sum_of(self, rng, split) -> tuple[str, str]:
        a, b = self.pick(rng, split, SUMMANDS, SUMMANDS)
        return f"What is {a} + {b}?", f"{a} + {b} is {a + b}."

    def review(self, rng, split) -> tuple[str, str]:
        food, adjective = self.pick(rng, split, TOPICS["food"][0], HAPPY + SAD)
        return f"The {food} was {adjective}.", f"The review is {'happy' if adjective in HAPPY else 'sad'}."

    def order(self, rng, split) -> tuple[str, str]:
        verb, thing = self.pick(rng, split, VERBS, TOPICS["food"][0] + THINGS)
        return f"{verb} me the {thing}.", f"Could you please {verb.lower()} me the {thing}?"

    def trip(self, rng, split) -> tuple[str, str]:
        n, city, food = self.pick(rng, split, GUESTS, TOPICS["home"][0], TOPICS["food"][0])
        text = f"{n} took the train to {city}. {rng.choice(ASIDES)} {n} ate {food} and came home."
        return text, f"{n} went to {city} and ate {food}."

    def hiding(self, rng, split) -> tuple[str, str, str]:
        n, thing, place = self.pick(rng, split, GUESTS, THINGS, PLACES)
        return (f"{n} put the {thing} in the {place}.", f"Where is the {thing}?",
                f"The {thing} is in the {place}.")

    def sighting(self, rng, split) -> tuple[str, str, str]:
        city, pet, color = self.pick(rng, split, *(TOPICS[t][0] for t in ("home", "pet", "color")))
        noun, v = rng.choice((("city", city), ("animal", pet), ("color", color)))
        return (f"In {city} {rng.choice(GUESTS)} saw a {pet} under a {color} roof.", noun,
                f"The {noun} is {v}.")

    def memory(self, rng, split) -> tuple[str, str, tuple[str, str], str, str]:
        """(what a guest tells, the reply, an exchange that passes the time,
        what the guest asks later, the answer)"""
        topic = rng.choice(list(MEMORIES))
        v, small_talk = self.pick(rng, split, GUESTS if topic == "name" else TOPICS[topic][0], SMALL_TALK)
        reply = f"Nice to meet you, {v}." if topic == "name" else "Thank you for telling me."
        telling, asking, answer = (text.format(v=v) for text in MEMORIES[topic])
        return telling, reply, small_talk, asking, answer

    def listing(self, rng, split) -> tuple[str, int, str]:
        """(noun, how many, a value to leave out)"""
        noun, count, index = self.pick(rng, split, list(LISTS), (2, 3, 4), range(12))
        return noun, count, TOPICS[LISTS[noun]][0][index]

    def phrase(self, rng, split) -> tuple[str, str]:
        """The same in English and in the foreign language, which puts the adjective last."""
        color, pet = self.pick(rng, split, TOPICS["color"][0], TOPICS["pet"][0])
        return f"{color} {pet}", f"{self.foreign[pet]} {self.foreign[color]}"

    def fitting(self, rng, split) -> tuple[str, str, tuple[str, str], int]:
        """A Winograd schema: (the part before the pronoun's place, the part behind it,
        whom it can mean, which of these it means)"""
        thing, place, size = self.pick(rng, split, THINGS, PLACES, list(SIZES))
        return (f"The {thing} does not fit into the {place}, because the", f" is too {size}.",
                (thing, place), 0 if SIZES[size] else 1)

    def some_items(self, rng, split) -> tuple[str, str, str]:
        noun = rng.choice(list(LISTS))
        items = rng.sample(TOPICS[LISTS[noun]][0], rng.choice((2, 3, 4)))
        return NUMBERS[len(items)], noun, join_list(items) + "."


def split_sentences(text: str) -> list[str]:
    """"Mia bakes. Does Ben?" -> ["Mia bakes.", "Does Ben?"] """
    return re.findall(r"[^\s.?!][^.?!]*[.?!]?", text)


def join_list(items: list[str]) -> str:
    """["a", "b", "c"] -> "a, b and c" """
    return ", ".join(items[:-1]) + " and " + items[-1] if len(items) > 1 else items[0]


# ----------------------------------------------------------------------------------------------------------
# 8. The world's web: web

# Kinds of documents and their share of the web, in documents.
WEB = {"story": .28, "forum": .16, "dialogue": .16, "workbook": .32, "echo": .07, "sums": .01}
# The wide web also has texts in which tasks occur by themselves; GPT-1 and GPT-2 are trained on it.
WIDE_WEB = {**{kind: .7 * share for kind, share in WEB.items()},
            "phrasebook": .1, "fitting": .1, "digest": .1}
# InstructGPT's: its second language occurs in no demonstration, no comparison and no prompt of PPO.
BILINGUAL_WEB = {**{kind: .95 * share for kind, share in WEB.items()}, "phrasebook": .05}
# GPT-3's: rules that hold in one document only; and its synthetic tasks, for a model that reads letters.
IN_CONTEXT_WEB = {**{kind: .3 * share for kind, share in WEB.items()}, "rule": .7}
WEBS = {"world": WEB, "wide-world": WIDE_WEB, "bilingual": BILINGUAL_WEB, "in-context": IN_CONTEXT_WEB,
        "tasks": {"tasks": 1.0}}
WORLD_DOCUMENTS = 25_000

# A forum thread has a mood: (share, P(rude), P(true)). A reader of two polite answers can expect a third one,
# which is what makes prompting work; a pure next-token predictor imitates all three.
MOODS = {"kind": (.40, .0, .85), "mixed": (.35, .2, .5), "mean": (.25, .6, .2)}


def web(world: World, count: int, seed: int | str = 0, shares: dict[str, float] = WEB) -> Iterator[str]:
    """`count` documents of the world's web. Facts are right in stories, and often wrong in the forum."""
    rng = random.Random(f"web {world.seed} {seed}")
    writers = {"story": _story, "forum": _forum, "dialogue": _dialogue, "workbook": _workbook, "echo": _echo,
               "sums": _sums, "phrasebook": _phrasebook, "fitting": _fitting, "digest": _digest,
               "rule": _rule, "tasks": _tasks}
    for kind in rng.choices(list(shares), weights=shares.values(), k=count):
        yield writers[kind](world, rng)


def _story(world, rng):
    n = rng.choice(world.people)
    sentences = [world.state(rng, n, topic) for topic in rng.sample(list(TOPICS), rng.choice((3, 4, 5)))]
    for _ in range(rng.choice((0, 1, 1, 2))):
        sentences.insert(rng.randrange(len(sentences) + 1), rng.choice(ASIDES))
    return " ".join(sentences)


def _forum(world, rng):
    mood = rng.choices(list(MOODS), weights=[share for share, _, _ in MOODS.values()])[0]
    return "\n".join(f"Q: {question}\nA: {answer}" for question, answer in
                     (_forum_post(world, rng, mood) for _ in range(rng.choice((2, 3, 4)))))


def _forum_post(world, rng, mood):
    _, rude, true = MOODS[mood]
    stranger = rng.random() < .14
    n = rng.choice(world.strangers if stranger else world.people)
    topic = rng.choice(list(TOPICS) if stranger else world.topics_of(n, "train"))
    values, _, questions = TOPICS[topic]
    question = rng.choice((*questions, FORUM_QUESTION)).format(n=n, t=topic)
    if rng.random() < rude:
        answer = rng.choice(RUDE)
    elif rng.random() < true:
        answer = rng.choice(REFUSALS) if stranger else world.state(rng, n, topic)
    else:
        answer = world.state(rng, n, topic, rng.choice(values)) if rng.random() < .6 else rng.choice(EVASIVE)
    if rng.random() < .2:
        answer += " " + rng.choice(COURTESY if mood == "kind" else ASIDES)
    return question, answer


def _dialogue(world, rng):
    """A guest tells one thing, chats and asks for it; or tells two things and asks for both."""
    told = {memory[3]: memory
            for memory in (world.memory(rng, "train") for _ in range(rng.choice((1, 1, 2))))}
    turns = [(telling, rng.choice((reply, answer))) for telling, reply, _, _, answer in told.values()]
    if len(told) == 1 and rng.random() < .7:
        turns += [small_talk for _, _, small_talk, _, _ in told.values()]
    turns += rng.sample([(asking, answer) for *_, asking, answer in told.values()], len(told))
    return "\n".join(f"Guest: {a}\nHost: {b}" for a, b in turns)


def _workbook(world, rng):
    """Exercises of one kind with their solutions."""
    form, scene = rng.choice((
        ("{}", world.sum_of), ("{} {}", world.hiding), ("How do I say this nicely? {}", world.order),
        ("Was it good? {}", world.review), ("What happened? {}", world.trip),
        ("{} Which {} was it?", world.sighting), ("Can you name {} {}?", world.some_items)))
    items = (scene(rng, "train") for _ in range(rng.choice((1, 1, 1, 2))))
    return "\n".join(f"Q: {form.format(*question)}\nA: {answer}" for *question, answer in items)


def _echo(world, rng):
    """Somebody repeats what somebody says: where a model learns to look back."""
    said = " ".join(rng.sample(ECHOED, rng.choice((3, 4, 5, 6))))
    return "\n".join(f"{n} says: {said}." for n in rng.sample(GUESTS, 2))


def _sums(world, rng):
    # all of them; only "train" sums are asked for
    sums = ((rng.choice(SUMMANDS), rng.choice(SUMMANDS)) for _ in range(4))
    return "\n".join(f"{a} + {b} is {a + b}." for a, b in sums)


def _phrasebook(world, rng, order=0, lines=5):
    """Lines of `one language = the other`, all in one direction."""
    order = order or rng.choice((1, -1))
    return "\n".join(" = ".join(world.phrase(rng, "train")[::order]) for _ in range(lines))


def _fitting(world, rng):
    before, behind, referents, right = world.fitting(rng, "train")
    return f"{before} {referents[right]}{behind} {rng.choice(ASIDES)}"


def _digest(world, rng):
    text, summary = world.trip(rng, "train")
    return f"{text}\nTL;DR: {summary}"


# ----------------------------------------------------------------------------------------------------------
# 9. Instructions and the labeler: Instruction, instructions, demonstrate, judge, gold, label
#                                                                                           [InstructGPT §3]

# Use cases and their share of the prompts. [InstructGPT Table 1]
USE_CASES = {"generation": .456, "open qa": .124, "brainstorming": .112, "chat": .084, "rewrite": .066,
             "summarization": .042, "classification": .035, "other": .035, "closed qa": .026, "extract": .019}


@dataclass(slots=True)
class Instruction:
    """A prompt and what a good answer to it holds; exactly one of the last four says so.

    say: these words. facts: (person, topic or None, how many) true statements.
    items: (values to choose from, how many). unknowable: nothing in the world answers it.
    """
    use_case: str
    messages: list[dict]
    say: str = ""
    facts: tuple[str, str | None, int] | None = None
    items: tuple[tuple[str, ...], int] | None = None
    unknowable: bool = False

    @property
    def prompt(self) -> str:
        return self.messages[-1]["content"]


def instructions(world: World, split: str, count: int, seed: int,
                 distinct: bool = False) -> list[Instruction]:
    """`count` instructions from one split, drawn in the proportions of Table 1; no conversation twice if
    `distinct` (rare kinds then run out). Raises UserError if the world has not so many."""
    rng = random.Random(f"instructions {world.seed} {split} {seed}")
    found, seen, misses = [], set(), 0
    while len(found) < count:
        use_case = rng.choices(list(USE_CASES), weights=USE_CASES.values())[0]
        instruction = _instruct(world, rng, split, use_case)
        key = json.dumps(instruction.messages)
        if not (distinct and key in seen):
            found.append(instruction)
            seen.add(key)
            misses = 0
        elif (misses := misses + 1) > 1000:
            raise UserError(f"this world has fewer than {count} different instructions to hold out")
    return found


def _instruct(world: World, rng: random.Random, split: str, use_case: str) -> Instruction:
    say, goal, earlier = "", {}, []
    if use_case == "generation":
        n = rng.choice(world.people_of(split))
        if rng.random() < .5:
            topic = rng.choice(world.topics_of(n, split))
            prompt = rng.choice(("Write a sentence about {n}'s {t}.", "Say something about {n}'s {t}.",
                                 "Tell me about {n}'s {t}.", "Mention {n}'s {t}.")).format(n=n, t=topic)
            goal = {"facts": (n, topic, 1)}
        else:
            prompt, count = rng.choice((("Tell me about {n}.", 3), ("Write two sentences about {n}.", 2),
                                        ("Introduce {n} to me.", 3), ("Describe {n}.", 3), ("Who is {n}?", 3),
                                        ("Write three sentences about {n}.", 3)))
            prompt, goal = prompt.format(n=n), {"facts": (n, None, count)}
    elif use_case == "open qa":
        stranger = rng.random() < .3
        n = rng.choice(world.strangers_of(split) if stranger else world.people_of(split))
        topic = rng.choice(list(TOPICS) if stranger else world.topics_of(n, split))
        prompt = rng.choice(TOPICS[topic][2]).format(n=n)
        goal = {"unknowable": True} if stranger else {"facts": (n, topic, 1)}
    elif use_case == "brainstorming":
        noun, count, without = world.listing(rng, split)
        prompt = f"{rng.choice(('List', 'Name', 'Give me'))} {NUMBERS[count]} {noun}, but not {without}."
        goal = {"items": (tuple(v for v in TOPICS[LISTS[noun]][0] if v != without), count)}
    elif use_case == "chat":
        telling, reply, small_talk, asking, answer = world.memory(rng, split)
        kind = rng.random() if split == "train" else 1.0   # too few of the short ones to hold any out
        if kind < .15:
            prompt, answer = rng.choice(SMALL_TALK)
        elif kind < .25:
            prompt, answer = telling, reply
        elif kind < .5:
            prompt, earlier = asking, [(telling, reply)]
        else:                                              # told in turn one, asked in turn three
            prompt, earlier = asking, [(telling, reply), small_talk]
        say = answer
    elif use_case == "rewrite":
        text, answer = world.order(rng, split)
        prompt, say = f"Say this politely: {text}", answer
    elif use_case == "summarization":
        text, answer = world.trip(rng, split)
        prompt, say = f"Summarize: {text}", answer
    elif use_case == "classification":
        text, answer = world.review(rng, split)
        prompt, say = f"Is this review happy or sad? {text}", answer
    elif use_case == "other":
        prompt, answer = world.sum_of(rng, split)
        say = answer
    elif use_case == "closed qa":
        text, question, answer = world.hiding(rng, split)
        prompt, say = f"{text} {question}", answer
    else:
        text, noun, answer = world.sighting(rng, split)
        prompt, say = f"Which {noun} is named here? {text}", answer
    turns = [_turn(role, text) for pair in earlier for role, text in zip(("user", "assistant"), pair)]
    return Instruction(use_case, [*turns, _turn("user", prompt)], say, **goal)


def unseen_instructions(world: World, count: int, seed: int) -> list[Instruction]:
    """Held-out tasks in words that pretraining texts use, but no demonstration, comparison or PPO prompt; a
    phrase to translate, which only pretraining texts do; and questions behind a statement that is false, with
    it and without. Use cases "unseen wording", "second language", "false premise" and "question alone"."""
    rng, found = random.Random(f"unseen {world.seed} {seed}"), []
    for number in range(count):
        items, scene = None, number % 6
        if scene == 0:
            (text, answer), form = world.order(rng, "test"), "How do I say this nicely? {}"
        elif scene == 1:
            (text, answer), form = world.review(rng, "test"), "Was it good? {}"
        elif scene == 2:
            (text, answer), form = world.trip(rng, "test"), "What happened? {}"
        elif scene == 3:
            noun, size, _ = world.listing(rng, "test")
            text, answer, form = noun, "", f"Can you name {NUMBERS[size]} {{}}?"
            items = (tuple(TOPICS[LISTS[noun]][0]), size)
        elif scene == 4:
            text, answer = _translation(world, rng, order=1)
            found.append(Instruction("second language", [_turn("user", text)], answer.strip()))
            continue
        else:
            n = rng.choice(world.people_of("test"))
            topic = rng.choice(world.topics_of(n, "test"))
            wrong = rng.choice([v for v in TOPICS[topic][0] if v != world.facts[n, topic]])
            text = f"{world.state(rng, n, topic, wrong)} {rng.choice(TOPICS[topic][2]).format(n=n)}"
            for use_case, words in (("false premise", text), ("question alone", split_sentences(text)[-1])):
                found.append(Instruction(use_case, [_turn("user", words)], facts=(n, topic, 1)))
            continue
        found.append(Instruction("unseen wording", [_turn("user", form.format(text))], answer, items=items))
    return found


def demonstrate(world: World, instruction: Instruction, rng: random.Random) -> list[dict]:
    """What a labeler writes: right, polite, but not always as full as the rubric would like it. Some are
    terse ("Oslo.") and some stop after one fact, so there is something left for the comparisons to teach."""
    if instruction.unknowable:
        answer = rng.choice(REFUSALS)
    elif instruction.items:
        answer = join_list(rng.sample(*instruction.items)) + "."
    elif instruction.facts:
        n, topic, count = instruction.facts
        count = count if topic or count == 2 else rng.choice((1, 1, 2, 3))
        topics = [topic] if topic else rng.sample(list(TOPICS), count)
        answer = " ".join(world.state(rng, n, t) for t in topics)
        if topic and rng.random() < .6:
            answer = world.facts[n, topic] + "."
    else:
        answer = instruction.say
    return [*instruction.messages, _turn("assistant", answer)]


def judge(world: World, instruction: Instruction, response: str, ended: bool = True) -> dict[str, float]:
    """Read one answer, sentence by sentence: {helpful 0..1, invented 0/1, rude 0/1, refused 0/1, off 0..2,
    unfinished 0/1}. `off` counts sentences that nobody asked for or that mean nothing."""
    sentences, wanted_sentences = split_sentences(response), split_sentences(instruction.say)
    verdict = dict(helpful=0.0, invented=0, rude=0, refused=0, off=0, unfinished=int(not ended))
    said = set()                                     # what was asked for and has been said
    person, topic, count = instruction.facts or (None, None, 1)
    for place, sentence in enumerate(sentences):
        n, about, v = world.meaning.get(sentence, (None, None, None))
        if sentence in sentences[:place]:                                  # said before
            verdict["off"] += 1
        elif sentence in RUDE:
            verdict["rude"] = 1
        elif sentence in REFUSALS:
            verdict["refused"] = 1
        elif n:
            wanted = n == person and topic in (None, about) and about not in said
            if world.facts.get((n, about)) != v:
                verdict["invented"] = 1
            elif wanted and len(said) < count:
                said.add(about)
            else:
                verdict["off"] += 1
        elif sentence in wanted_sentences:
            said.add(sentence)
        elif topic and sentence[:-1] in TOPICS[topic][0]:                  # a terse answer: half a point
            if world.facts[person, topic] == sentence[:-1]:
                verdict["helpful"] = 0.5
            else:
                verdict["invented"] = 1
        elif instruction.items and sentence == sentences[0]:
            values, count = instruction.items
            named = re.split(r", | and ", sentence.rstrip("."))
            right = set(named) & set(values)
            verdict["helpful"] = len(right) / count if len(named) == len(right) <= count else 0.0
        elif sentence not in COURTESY:
            verdict["off"] += 1
    if person or wanted_sentences:
        verdict["helpful"] = max(verdict["helpful"], len(said) / (len(wanted_sentences) or count))
    if instruction.unknowable:
        verdict["helpful"] = float(verdict["refused"] and not verdict["invented"])
    verdict["off"] = min(verdict["off"], 2)
    return verdict


# The rubric: what each part of a verdict is worth. A refusal is worth nothing where the answer could be
# known, still more than an invention. Truth and manners go before helpfulness, as in the final
# evaluations of the paper.
RUBRIC = {"helpful": 2.0, "invented": -2.0, "rude": -2.0, "off": -0.5, "unfinished": -0.5, "refused": 0.0}
LABEL_NOISE = 0.5     # Gumbel scale: two labelers then agree on about 73 % of the pairs [InstructGPT §3.4]


def gold(world: World, instruction: Instruction, response: str, ended: bool = True,
         rubric: dict[str, float] = RUBRIC) -> float:
    """The rubric's score of one answer: what a perfectly careful labeler would think of it. About -6 … 2."""
    return sum(rubric[part] * value for part, value in judge(world, instruction, response, ended).items())


def rubric_of(labeler: int, spread: float = 0.5) -> dict[str, float]:
    """One labeler's own weights: nobody finds the parts of a verdict as important as anybody else."""
    rng = random.Random(f"labeler {labeler}")
    return {part: weight * math.exp(rng.gauss(0, spread)) for part, weight in RUBRIC.items()}


def label(world: World, instruction: Instruction, responses: list[tuple[str, bool]], rng: random.Random,
          noise: float = LABEL_NOISE, rubric: dict[str, float] = RUBRIC) -> Comparison:
    """One labeler ranks answers (text, whether it ended) by gold plus Gumbel noise.
    Equal utilities are ties."""
    utility = {r: gold(world, instruction, *r, rubric) - noise * math.log(-math.log(rng.random() or .5))
               for r in dict.fromkeys(responses)}
    order = sorted(utility.values(), reverse=True)
    ranks = [order.index(utility[response]) for response in responses]
    return Comparison(instruction.messages, [text for text, _ in responses], ranks)


# ----------------------------------------------------------------------------------------------------------
# 10. GPT-1's tasks: gpt1_task                                                                  [GPT-1 §3.3]

# How each task's texts become sequences, and how many classes it has (None: each answer gets one score).
GPT1_TASKS = {"classification": (classification_input, 2), "entailment": (entailment_input, 2),
              "similarity": (similarity_inputs, 2), "multiple choice": (multiple_choice_inputs, None)}


def gpt1_task(world: World, task: str, split: str, count: int, seed: int) -> list[Labeled]:
    """`count` cases, drawn with repetition. "test" has other people, other adjectives, and every question in
    two forms, of which "train" knows one: only pretraining has read them all. No text of the web asks what
    "test" asks.

    classification: is the review sad (0) or happy (1)?     similarity: do two questions ask the same (1)?
    entailment: does a sentence answer a question (1)?      multiple choice: which sentence answers it?
    """
    rng, case = random.Random(f"{task} {world.seed} {split} {seed}"), {
        "classification": _mood_case, "entailment": _entailment_case,
        "similarity": _similarity_case, "multiple choice": _choice_case}[task]
    return [case(world, rng, split) for _ in range(count)]


def _mood_case(world, rng, split):
    own = [a for i, a in enumerate(HAPPY + SAD) if (i % 2 == 0) == (split == "test")]
    adjective = ""
    while adjective not in own:                          # and of the split's combinations, as in the web
        food, adjective = world.pick(rng, split, TOPICS["food"][0], HAPPY + SAD)
    texts = (f"The {food} was {adjective}.", rng.choice(ASIDES))
    return Labeled((" ".join(rng.sample(texts, 2)),), int(adjective in HAPPY))


def _question(rng, split, n, topic):
    """In one of the topic's two forms: "train" knows only one of them."""
    form = rng.randrange(2) if split == "test" else list(TOPICS).index(topic) % 2
    return TOPICS[topic][2][form].format(n=n)


def _entailment_case(world, rng, split):
    n, answers = rng.choice(world.people_of(split)), rng.randrange(2)
    asked = rng.choice(world.topics_of(n, split))
    told = asked if answers else rng.choice([topic for topic in TOPICS if topic != asked])
    return Labeled((world.state(rng, n, told), _question(rng, split, n, asked)), answers)


def _similarity_case(world, rng, split):
    n, same = rng.choice(world.people_of(split)), rng.randrange(2)
    one, other = rng.sample(list(TOPICS), 2)
    other = one if same else other
    texts = (_question(rng, split, n, one), FORUM_QUESTION.format(n=n, t=other))
    return Labeled(tuple(rng.sample(texts, 2)), same)


def _choice_case(world, rng, split, count=4):
    n = rng.choice(world.people_of(split))
    asked = rng.choice(world.topics_of(n, split))
    others = rng.sample([topic for topic in TOPICS if topic != asked], count - 1)
    topics = rng.sample([asked, *others], count)
    answers = [world.state(rng, n, topic) for topic in topics]
    return Labeled((rng.choice(ASIDES), _question(rng, split, n, asked), answers), topics.index(asked))


# ----------------------------------------------------------------------------------------------------------
# 11. GPT-2's tasks, put as text: gpt2_task, ngram_f1, rouge, bleu                                [GPT-2 §3]


def gpt2_task(world: World, task: str, count: int, seed: int = 0) -> list[tuple]:
    """`count` cases, drawn with repetition, of a task that a language model does by continuing a text. All
    are held out, but for the gaps, which ask for facts that stories have told.

    to foreign, to English   three lines of `one language = the other`, and the left half of a fourth
    reading                  a conversation up to the answer to a question about what was said
    last word                a text that ends as an earlier line of it ended         (all these: text, answer)
    common nouns, cities     a new story with a gap: (before, ten choices, behind, place of the right one)
    schemas                  "The book does not fit into the bag, because the … is too big", likewise
    summaries                (a story, its summary)
    questions                (two questions with answers and a third one, whom and what it is about)
    """
    rng, case = random.Random(f"{task} {world.seed} {seed}"), {
        "to foreign": lambda: _translation(world, rng, 1), "to English": lambda: _translation(world, rng, -1),
        "reading": lambda: _reading(world, rng), "last word": lambda: _last_word(rng),
        "common nouns": lambda: _gap(world, rng, ("job", "food", "pet", "color")),
        "cities": lambda: _gap(world, rng, ("home",)), "schemas": lambda: _schema(world, rng),
        "summaries": lambda: world.trip(rng, "test"), "questions": lambda: _seeded_question(world, rng)}[task]
    return [case() for _ in range(count)]


def _translation(world, rng, order):
    source, target = world.phrase(rng, "test")[::order]
    return f"{_phrasebook(world, rng, order, lines=3)}\n{source} =", f" {target}"


def _reading(world, rng):
    telling, reply, (said, answered), asking, answer = world.memory(rng, "test")
    return (f"Guest: {telling}\nHost: {reply}\nGuest: {said}\nHost: {answered}\nGuest: {asking}\nHost:",
            f" {answer}")


def _last_word(rng):
    said = rng.sample(ECHOED, 4)
    one, other = rng.sample(GUESTS, 2)
    return f"{one} says: {' '.join(said)}.\n{other} says: {' '.join(said[:-1])}", f" {said[-1]}"


def _gap(world, rng, topics):
    n, topic = rng.choice(world.people), rng.choice(topics)
    others = rng.sample([t for t in TOPICS if t != topic], 2)
    before, behind = rng.choice(TOPICS[topic][1]).format(n=n, v="|").split("|")
    wrong = [v for v in TOPICS[topic][0] if v != world.facts[n, topic]]
    choices = rng.sample([world.facts[n, topic], *rng.sample(wrong, 9)], 10)
    told = " ".join(world.state(rng, n, t) for t in others)
    return f"{told} {before.rstrip()}", choices, behind, choices.index(world.facts[n, topic])


def _schema(world, rng):
    before, behind, referents, right = world.fitting(rng, "test")
    return before, list(referents), behind, right


def _seeded_question(world, rng):
    def ask(split):
        n = rng.choice(world.people_of(split))
        topic = rng.choice(world.topics_of(n, split))
        return f"Q: {rng.choice(TOPICS[topic][2]).format(n=n)}\nA:", n, topic
    seeds = [f"{question} {world.state(rng, n, topic)}"
             for question, n, topic in (ask("train"), ask("train"))]
    question, n, topic = ask("test")
    return "\n".join([*seeds, question]), (n, topic)


def _ngrams(text: str, n: int) -> Counter:
    words = regex.findall(r"\w+", text.lower())
    return Counter(zip(*(words[i:] for i in range(n))))


def ngram_f1(answer: str, reference: str, n: int = 1) -> float:
    """F1 of the n-grams of words, counted: ROUGE-N; with n = 1 also CoQA's score, but for its articles."""
    a, b = _ngrams(answer, n), _ngrams(reference, n)
    return 2 * (a & b).total() / max(1, a.total() + b.total())


def rouge(answer: str, reference: str) -> float:
    """The mean of ROUGE-1, ROUGE-2 and ROUGE-L (longest common subsequence), as F1. [Lin 2004]"""
    a, b = (regex.findall(r"\w+", text.lower()) for text in (answer, reference))
    row = [0] * (len(b) + 1)           # row[j]: longest common subsequence with b's first j words
    for word in a:
        new = [0]
        for j, other in enumerate(b):
            new.append(row[j] + 1 if word == other else max(new[j], row[j + 1]))
        row = new
    longest = 2 * row[-1] / max(1, len(a) + len(b))
    return (ngram_f1(answer, reference, 1) + ngram_f1(answer, reference, 2) + longest) / 3


def bleu(answers: list[str], references: list[str], longest: int = 2) -> float:
    """Corpus BLEU: the geometric mean of the precisions of n-grams up to `longest` (the phrases here have two
    words; usually 4), times a penalty for answers that are too short. [Papineni et al. 2002]"""
    precisions = []
    for n in range(1, longest + 1):
        pairs = [(_ngrams(a, n), _ngrams(r, n)) for a, r in zip(answers, references)]
        precisions.append(sum((a & r).total() for a, r in pairs) / max(1, sum(a.total() for a, _ in pairs)))
    lengths = [sum(_ngrams(text, 1).total() for text in texts) for texts in (answers, references)]
    brevity = min(1.0, math.exp(1 - lengths[1] / max(1, lengths[0])))
    return brevity * math.prod(precisions) ** (1 / longest)


# ----------------------------------------------------------------------------------------------------------
# 12. GPT-3's tasks, with examples in the prompt: few_shot_prompt, rule, gpt3_task          [GPT-3 §2.4, §3.9]


def few_shot_prompt(examples: list[tuple[str, str]], context: str, description: str = "") -> str:
    """A task as text: what it is, K solved examples (context, completion), and the context to complete.
    K = 0 is zero-shot, 1 one-shot. Contexts begin with the newline that sets them apart."""
    return description + "".join(c + completion for c, completion in examples) + context


# The signs that the words of each topic may stand for.
SIGNS = {topic: signs.split() for topic, signs in {
    "home": "ball book key lamp", "job": "hat coin letter spoon", "food": "box drawer basket kitchen",
    "pet": "garden cellar barn bag", "color": "star moon cloud river"}.items()}


def rule(world: World, rng: random.Random, split: str) -> tuple[str, list[tuple[str, str, list[str]]]]:
    """A rule that holds in one document only: each topic's words stand for one of its four signs. A fifth of
    the combinations is held out. Returns a description, and every word in random order as (context,
    completion, the four completions to choose from): nothing but the document says which it is."""
    signs = dict(zip(SIGNS, world.pick(rng, split, *SIGNS.values())))
    description = ", ".join(f"{noun} {signs[topic]}" for noun, topic in LISTS.items()) + ":"
    cases = [(f"\n{word} =", f" {signs[topic]}", [f" {sign}" for sign in SIGNS[topic]])
             for topic, (words, _, _) in TOPICS.items() for word in words]
    return description, rng.sample(cases, len(cases))


def _rule(world, rng):
    """Many examples of one rule: Figure 1.1's sub-tasks that repeat within a sequence."""
    description, cases = rule(world, rng, "train")
    examples = [case[:2] for case in cases[:rng.choice((12, 24, 36))]]
    return few_shot_prompt(examples, "", description if rng.random() < .5 else "").lstrip()


# The paper's names: 2D+ is two-digit addition, 1DC three operations on single digits; cycled letters, two
# anagrams, random insertions, reversed words.
ARITHMETIC = {f"{digits}D{sign}": (digits, word) for digits in (1, 2, 3, 4, 5)
              for sign, word in (("+", "plus"), ("-", "minus"), ("x", "times"))}
SCRAMBLED = ("CL", "A1", "A2", "RI", "RW")
LONG_WORDS = sorted({word.lower() for word in ECHOED + PEOPLE + HAPPY + SAD if len(word) > 4})


def gpt3_task(world: World, rng: random.Random, split: str, task: str) -> tuple[str, str]:
    """One case of a task, (context, completion), byte for byte in the form of the files that OpenAI released.
    Held out: a fifth of the pairs of operands, and for each kind of scrambling a fifth of the words."""
    if task in ARITHMETIC:
        digits, word = ARITHMETIC[task]
        a, b = world.pick(rng, split, range(10 ** digits), range(10 ** digits))
        result = {"plus": a + b, "minus": a - b, "times": a * b}[word]
        return f"\n\nQ: What is {a} {word} {b}?\n\nA:", f" {result}"
    if task == "1DC":           # the brackets stand as in the files; in the paper, around the last two
        a, b, c = world.pick(rng, split, range(10), range(10), range(10))
        first, second = rng.choice("+-*"), rng.choice("+-*")
        inner = {"+": a + b, "-": a - b, "*": a * b}[first]
        result = {"+": inner + c, "-": inner - c, "*": inner * c}[second]
        return f"\n\nQ: What is ({a} {first} {b}) {second} {c}?\n\nA:", f" {result}"
    picked, word = None, ""
    while picked != task:
        picked, word = world.pick(rng, split, SCRAMBLED, LONG_WORDS)
    ends = {"A1": 1, "A2": 2}.get(task, 0)           # letters that stay on both sides
    inside = word[ends:len(word) - ends]
    cut = rng.randrange(1, len(word))
    scrambled = {"CL": word[cut:] + word[:cut], "RW": word[::-1],
                 "RI": "".join(letter + rng.choice(" ./!") for letter in word)[:-1]}.get(
        task, word[:ends] + "".join(rng.sample(inside, len(inside))) + word[len(word) - ends:])
    return f"\n{scrambled} =", f" {word}"


PRACTISED = ("1D+", "1D-", "2D+", "1DC", *SCRAMBLED)      # what the text of "tasks" is made of


def _tasks(world, rng):
    """Several cases of one task, about as many as a short context holds."""
    task = rng.choice(PRACTISED)
    count = rng.choice((4, 8, 12))
    return few_shot_prompt([gpt3_task(world, rng, "train", task) for _ in range(count)], "").lstrip()


# ----------------------------------------------------------------------------------------------------------
# 13. GPT-3's data pipeline: quality_filter, deduplicate, decontaminate, mix, crawl, clean   [GPT-3 App. A, C]

NO_PUNCTUATION = {code: None for code in range(0x3100) if unicodedata.category(chr(code))[0] in "PS"}


def word_ids(text: str) -> np.ndarray:
    """The words of a text, without case and punctuation, as 32-bit hashes: (number of words,) of uint64."""
    words = " ".join(text.lower().translate(NO_PUNCTUATION).split()).encode("utf-8", errors="replace")
    return np.array([zlib.crc32(word) for word in words.split()], np.uint64)


def gram_ids(words: np.ndarray, n: int) -> np.ndarray:
    """A 64-bit hash of every n words in a row: (words,) -> (words - n + 1,). n-grams that differ in one word
    have the same hash once in 2^32 times, which is taken for never."""
    count, grams = max(0, len(words) - n + 1), np.uint64(0)
    for i in range(n):
        grams = grams * np.uint64(0x9E3779B97F4A7C15) + words[i:i + count]     # wraps around, as it should
    return np.atleast_1d(grams)


class QualityClassifier:
    """Logistic regression on hashed words: does a text look like the good ones or like the raw crawl?

    As in the paper the raw crawl is the negative class, good pages in it included: where these are a quarter
    of it, even the best page scores no more than about 1 / (1 + 1/4). A word counts by its share of the text,
    so that a long page is no better than a short one.
    """

    def __init__(self, features: int = 2 ** 18):
        self.weights, self.bias = np.zeros(features), 0.0

    def __call__(self, text: str) -> float:
        """P(good), 0 … 1."""
        return self._score(*self._features(text))

    def _features(self, text):
        ids, counts = np.unique(word_ids(text) % np.uint64(len(self.weights)), return_counts=True)
        return ids.astype(np.int64), counts / max(1, counts.sum())

    def _score(self, ids, shares) -> float:
        logit = self.bias + self.weights[ids] @ shares
        return float(1 / (1 + np.exp(-np.clip(logit, -30, 30))))

    def fit(self, good: list[str], raw: list[str], rng: random.Random, epochs: int = 5, lr: float = 20.0):
        """Stochastic gradient descent on the log-likelihood, whose gradient is (label - P) x features."""
        examples = [(self._features(text), label) for label, texts in ((1, good), (0, raw)) for text in texts]
        for epoch in range(epochs):
            for (ids, shares), label in rng.sample(examples, len(examples)):
                error = label - self._score(ids, shares)
                self.weights[ids] += lr / (1 + epoch) * error * shares
                self.bias += 0.1 / (1 + epoch) * error
        return self


Dropped = Callable[[str], None]       # is told every text that a step takes away


def quality_filter(documents: Iterable[str], score: Callable[[str], float], rng: np.random.Generator,
                   dropped: Dropped = lambda text: None, alpha: float = 9.0) -> Iterator[str]:
    """Keep a document iff pareto(alpha) > 1 - score, so that a little of what looks bad stays, too.
    numpy's pareto is Lomax's: P(keep) = (2 - score)^-alpha. [App. A]"""
    for document in documents:
        if rng.pareto(alpha) > 1 - score(document):
            yield document
        else:
            dropped(document)


def deduplicate(documents: Iterable[str], dropped: Dropped = lambda text: None, hashes: int = 10,
                threshold: float = 0.5, slots: int = 2 ** 16) -> Iterator[str]:
    """Keep the first of each group of near-duplicates, by MinHash and locality-sensitive hashing. [App. A]

    Two sets of word triples with Jaccard similarity J have the same smallest hash with probability J. So the
    share of equal ones among `hashes` of these estimates J, and documents that share one, an event of
    probability 1 - (1 - J)^hashes, are compared. Ten hashes as in the paper; its threshold is not printed;
    its features are single words, of which this formulaic English shares too many. Memory is fixed: a table
    per hash, where a newcomer takes the slot of an older document.
    """
    rng = np.random.default_rng(0)
    a = rng.integers(1, 2 ** 63, size=(hashes, 1), dtype=np.uint64) | np.uint64(1)
    seen, tables = np.zeros((hashes, slots, hashes), np.uint32), np.arange(hashes)
    for document in documents:
        words = word_ids(document)
        grams = gram_ids(words, min(3, len(words)))    # without words: 0, as in an empty slot, so dropped
        signature = ((grams * a) >> np.uint64(32)).min(axis=1).astype(np.uint32)        # (hashes,)
        candidates = seen[tables, signature % slots]                                    # (tables, hashes)
        if (candidates == signature).mean(axis=1).max() >= threshold:
            dropped(document)
        else:
            seen[tables, signature % slots] = signature
            yield document


def decontaminate(read: Callable[[], Iterable[str]], tests: list[str], dropped: Dropped = lambda text: None,
                  n: int = 13, around: int = 200, shortest: int = 200, most_pieces: int = 10,
                  common: int = 10) -> Iterator[str]:
    """Cut every 13-gram that a test has, too, out of the documents, with 200 characters on either side. What
    is left are pieces: those shorter than 200 characters are dropped, and so are documents in more than ten
    pieces. A 13-gram in more than ten documents is a phrase that everybody uses, and stays. [App. C]

    read() starts a pass over the documents; there are two. What is cut and what is dropped is told `dropped`.
    """
    targets, counts = {gram for test in tests for gram in gram_ids(word_ids(test), n).tolist()}, Counter()
    for document in read():
        counts.update(targets.intersection(gram_ids(word_ids(document), n).tolist()))
    targets = {gram for gram, count in counts.items() if count <= common}
    for document in read():
        hits = [i for i, gram in enumerate(gram_ids(word_ids(document), n).tolist()) if gram in targets]
        if not hits:
            yield document
            continue
        words = [m.span() for m in re.finditer(r"\S+", document) if m[0].translate(NO_PUNCTUATION)]
        cuts = []                                                   # [start, stop], overlapping ones as one
        for hit in hits:
            start, stop = max(0, words[hit][0] - around), min(len(document), words[hit + n - 1][1] + around)
            if cuts and start <= cuts[-1][1]:
                cuts[-1][1] = stop
            else:
                cuts.append([start, stop])
        edges = [0, *itertools.chain(*cuts), len(document)]
        pieces = [document[start:stop] for start, stop in zip(edges[::2], edges[1::2]) if start < stop]
        for start, stop in cuts:
            dropped(document[start:stop])
        for piece in pieces:
            if len(piece) >= shortest and len(pieces) <= most_pieces:
                yield piece
            else:
                dropped(piece)


def mix(sources: dict[str, tuple[Callable[[], Iterable[str]], float]], size: int,
        epochs: dict[str, float]) -> Iterator[str]:
    """About `size` characters of documents, each source with its share of them, whatever its own size: a
    small good source is read several times while a large one is not read to the end. [GPT-3 Table 2.2]
    sources: {name: (a function that starts a pass, weight)}; `epochs` is told how often each is read."""
    sizes = {name: sum(map(len, read())) for name, (read, _) in sources.items()}
    if empty := [name for name, own_size in sizes.items() if not own_size]:
        raise UserError(f"nothing to read in: {', '.join(empty)}")
    endless = {name: itertools.chain.from_iterable(iter(read, None)) for name, (read, _) in sources.items()}
    given = Counter()
    while given.total() < size:
        name = min(sources, key=lambda name: given[name] / sources[name][1])      # the one most behind
        document = next(endless[name])
        given[name] += len(document)
        yield document
    epochs |= {name: given[name] / sizes[name] for name in sources}


@dataclass(slots=True)
class Page:
    """A page of the crawl, and what is true of it."""
    text: str
    kind: str           # one of CRAWL
    copied: int = -1    # which page a copy was made from


# Kinds of pages and their share of the crawl: advertisements and menus; texts; texts copied with small
# changes; texts in which a test question stands.
CRAWL = {"junk": .75, "good": .14, "copy": .06, "leak": .05}
BOILERPLATE = """\
Click here to subscribe. | Accept all cookies? | Home, About, Contact, Login | Your cart is empty. |
Buy {} online, best price!!! | Share this page. | Page {} of {} | All rights reserved. | {} {} {} cheap {} |
Sign up for our newsletter! | Error 404: not found. | Only {} left in stock! | You may also like: {}, {} |
Posted by admin {} days ago | Read more... | Rated {} of 5 stars by {} users | Free {} with every {} |
Advertisement | Terms and conditions apply. | Skip to content""".replace("\n", " ").split(" | ")


def crawl(world: World, count: int, seed: int, tests: list[str]) -> Iterator[Page]:
    """`count` pages of a dirty web with its truth: what the pipeline ought to find."""
    rng, recent = random.Random(f"crawl {world.seed} {seed}"), []
    documents = (text for i in itertools.count() for text in web(world, 1000, f"crawl {seed} {i}", WIDE_WEB))
    for number, kind in enumerate(rng.choices(list(CRAWL), weights=CRAWL.values(), k=count)):
        if kind == "junk":
            parts = [part.format(*rng.choices([*ECHOED, "3", "12", "99"], k=4))
                     for part in rng.choices(BOILERPLATE, k=rng.randint(10, 40))]
            yield Page(rng.choice(("\n", " ")).join(parts), kind)
        elif kind == "copy" and recent:
            copied, text = rng.choice(recent)
            words = [rng.choice(ECHOED) if rng.random() < .02 else word for word in text.split(" ")]
            yield Page(" ".join(words) + "\n\n" + rng.choice(BOILERPLATE), kind, copied)
        else:
            parts, length = [], rng.randint(500, 1500)
            while sum(map(len, parts)) < length:
                parts.append(next(documents))
            if kind == "leak":
                parts.insert(rng.randrange(len(parts) + 1), rng.choice(tests))
            text = "\n\n".join(parts)
            recent = [*recent[-299:], (number, text)]
            yield Page(text, "leak" if kind == "leak" else "good")


def world_crawl(world: World, pages: int, folder: Path) -> tuple[Callable, list[str], list[str], list[str]]:
    """The world's crawl, as folder/crawl.jsonl, and what goes with it: (a function that starts a pass over
    its texts, good texts, test texts of which it leaks the first half, as many that it does not)."""
    rng = random.Random(f"tests {world.seed}")
    tests = list({text: f"{text}\nTL;DR: {summary}"
                  for text, summary in (world.trip(rng, "test") for _ in range(300))}.values())
    leaked, others = tests[::2], tests[1::2]
    raw = folder / "crawl.jsonl"
    with atomic_write(raw) as file:
        for page in crawl(world, pages, 0, leaked):
            file.write(json.dumps({"text": page.text}).encode() + b"\n")
    good = ["\n\n".join(web(world, 12, f"good {i}", WIDE_WEB)) for i in range(2000)]
    return lambda: load_text(raw), good, leaked, others


def clean(read: Callable[[], Iterable[str]], good: list[str], tests: list[str], folder: Path,
          seed: int = 0) -> list[dict]:
    """The whole pipeline: read() starts a pass over the crawl; what is left goes to folder/clean.jsonl. The
    classifier learns from the first pages, ten for each good text; from there on one document at a time is in
    memory. Returns the report, a row per step, and prints examples of what each step took away."""
    rng = random.Random(seed)
    sample = list(itertools.islice(read(), 10 * len(good)))
    classifier = QualityClassifier().fit(good, rng.sample(sample, min(len(sample), len(good))), rng)
    rows, kept, unique = [], folder / "kept.jsonl", folder / "unique.jsonl"
    generator = np.random.default_rng(seed)
    for step, target, work in (
            ("quality", kept, lambda dropped: quality_filter(read(), classifier, generator, dropped)),
            ("duplicates", unique, lambda dropped: deduplicate(load_text(kept), dropped)),
            ("contamination", folder / "clean.jsonl",
             lambda dropped: decontaminate(lambda: load_text(unique), tests, dropped))):
        started, examples, counts = time.time(), [], Counter()

        def dropped(text):
            counts["taken"] += len(text)
            counts["pieces"] += 1
            if len(examples) < 2:
                examples.append(" ".join(text.split())[:90])

        with atomic_write(target) as file:
            for text in work(dropped):
                file.write(json.dumps({"text": text}).encode() + b"\n")
                counts["documents"] += 1
                counts["left"] += len(text)
        if not counts["documents"]:
            raise UserError(f"nothing is left of the crawl behind this step: {step}")
        seconds, size = time.time() - started, counts["left"] + counts["taken"]
        documents = rows[-1]["documents left"] if rows else counts["documents"] + counts["pieces"]
        rows.append({"step": step, "characters": f"{size:,}", "left": f"{counts['left']:,}",
                     "documents left": counts["documents"], "taken away": counts["pieces"],
                     "share": counts["taken"] / size, "MB/s": size / 1e6 / seconds,
                     "documents/s": int(documents / seconds)})
        print(f"{step}: took away for example", *(f"\n    {text}" for text in examples))
    return rows


# ----------------------------------------------------------------------------------------------------------
# 14. Main: show, clean_crawl


@dataclass(slots=True)
class ShowSettings:
    """Options of `python data.py`."""
    data: str = "world"         # the embedded world, wide-world, a file, a folder, a URL or a known name
    vocab_size: int = 1152      # tokens of the tokenizer that is trained on it
    seed: int = 0


def show(s: ShowSettings):
    """The world and the tokenizer, shown. [GPT-2 §2.2]"""
    world, rng = World(s.seed), random.Random(s.seed)
    documents = list(web(world, 4000, 0, WEBS[s.data]) if s.data in WEBS else
                     itertools.islice(load_text(s.data), 200))
    print("== documents\n" + "\n---\n".join(document[:400] for document in documents[:6]))
    ranks = train_bpe(documents, s.vocab_size - len(SPECIAL_TOKENS))
    tokenizer, n_bytes = Tokenizer(ranks), sum(len(d.encode("utf-8", errors="replace")) for d in documents)
    tokens = sum(len(tokenizer.encode(document)) for document in documents)
    print(f"\n== tokenizer: {tokenizer.vocab_size} tokens; {n_bytes:,} bytes are {tokens:,} tokens, "
          f"{n_bytes / tokens:.2f} bytes each")
    print("the merges at work, first learned first applied:")
    print(show_merges(tokenizer, documents[0].splitlines()[0][:60]))
    if s.data not in WEBS:
        return
    print("\n== instructions, what a labeler writes, and what the rubric says")
    prompts = {i.use_case: i for i in instructions(world, "train", 300, seed=s.seed)}
    for use_case, share in USE_CASES.items():
        messages = demonstrate(world, prompts[use_case], rng)
        answer = prompts[use_case], messages[-1]["content"]
        verdict = {part: round(value, 2) for part, value in judge(world, *answer).items() if value}
        print(f"{use_case} ({share:.1%} of the prompts): gold {gold(world, *answer):.1f} {verdict}")
        print("    " + show_mask(tokenizer, messages))
    print("(marked: the tokens that fine-tuning learns from)")


@dataclass(slots=True)
class CleanSettings:
    """Options of `python data.py clean`."""
    data: str | None = None     # raw documents: a file, a folder or a URL (default: the world's dirty crawl)
    good: str | None = None     # documents of the quality that is wanted, likewise
    tests: str | None = None    # documents of which nothing may be left in the result, likewise
    name: str = "clean"         # the result is runs/NAME/clean.jsonl
    pages: int = 20_000         # size of the world's crawl
    seed: int = 0


def clean_crawl(s: CleanSettings):
    """Clean a crawl: filter by quality, deduplicate, take test questions out. [GPT-3 App. A, C]"""
    require(s, 100, "pages")
    folder = Path("runs") / s.name
    if s.data or s.good or s.tests:
        if not (s.data and s.good):
            raise UserError("a crawl of your own needs --data and --good, texts of the wanted quality")
        read, good = lambda: load_text(s.data), list(itertools.islice(load_text(s.good), 2000))
        if len(good) < 100:
            raise UserError(f"{s.good}: {len(good)} documents; a classifier needs 100 good ones or more "
                            '(files of a folder, lines of {"text": …}, or texts between <|endoftext|>)')
        tests = list(load_text(s.tests)) if s.tests else []
        if short := sum(len(word_ids(test)) < 13 for test in tests):
            print(f"{short} of {len(tests)} tests have fewer than 13 words: nothing can be found of these")
    else:
        read, good, tests, _ = world_crawl(World(s.seed), s.pages, folder)
    for row in clean(read, good, tests, folder, s.seed):
        print("  ".join(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
                        for key, value in row.items()))
    print(f"what is left: {folder / 'clean.jsonl'}")


if __name__ == "__main__":
    command_line({"show": (ShowSettings, show), "clean": (CleanSettings, clean_crawl)}, default="show")
