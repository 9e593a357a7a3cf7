"""
data.py: text in, integers out. Knows nothing of models.

A byte-level BPE tokenizer, documents as one stream of token ids, and conversations. The
text that comes with the project is the web of a small English town, whose facts are known,
so that answers about it can be checked.

    python data.py    show the world, the tokenizer and the labelers (seconds)

Contents
    1. Byte-pair encoding: train_bpe, Tokenizer
    2. The token stream: tokenize_text, write_stream, Batches
    3. Conversations: render_conversation, render_within, Comparison
    4. The world and its web: World, random_exchanges, web
    5. Instructions and labelers: instructions, demonstrate, judge, label
    6. Your own data: load_text, load_demonstrations, load_comparisons
    7. Errors, files, commands: UserError, reading, atomic_write, run_folder, command_line

Used everywhere, explained in section 7: a UserError ends the program with one line that says
what is wrong; `reading` turns an error while a file is read into a UserError; `atomic_write` writes
a file that appears whole or not at all.

Shapes: B batch size, T sequence length.
"""
from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gzip
import heapq
import itertools
import json
import math
import os
import random
import re
import sys
import typing
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import regex  # comes with tiktoken; the standard library's re has no \p{L}
import tiktoken

# ----------------------------------------------------------------------------------
# 1. Byte-pair encoding: train_bpe, Tokenizer   [GPT-2 §2.2]

# A text is cut into chunks, and no token crosses their borders: contractions | letters | digits |
# other signs | white space. One leading space belongs to the word after it, so a run of spaces is
# cut before its last one. The possessive quantifiers (++) keep the regex from backtracking.
SPLIT_PATTERN = (r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++"
                 r"|\s++$|\s+(?!\S)|\s")

# Control tokens (tiktoken: special tokens). `encode` never makes them: a text that spells
# "<|end|>" stays text. Code appends their ids; models learn to write <|endoftext|> and <|end|>.
SPECIAL_TOKENS = ("<|endoftext|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")


def train_bpe(text: str | Iterable[str], vocab_size: int) -> dict[bytes, int]:
    """Learn a byte-level BPE vocabulary from a text or from documents. [Sennrich et al. 2016;
    of bytes: GPT-2 §2.2]

        start from the 256 bytes
        until there are vocab_size tokens:
            count all pairs of neighbouring tokens
            give the most frequent pair a token of its own, and merge it everywhere

    Ties go to the pair whose first token is older, then to the one whose second is. Returns
    {token bytes: id}, which tiktoken calls ranks; there are fewer than vocab_size if the text
    runs out of pairs.

    Counting all pairs again for every merge would take O(vocab_size x text). Instead,
    `where` knows which chunks contain a pair, and only these are counted again; a heap
    knows which pair is the most frequent.
    """
    if vocab_size < 256:  # --vocab-size also counts the control tokens
        raise UserError(f"--vocab-size must be at least {256 + len(SPECIAL_TOKENS)}")
    chunk_counts = Counter()  # each distinct chunk is kept once
    for document in [text] if isinstance(text, str) else text:
        chunk_counts.update(regex.findall(SPLIT_PATTERN, document))
    chunks = [list(chunk.encode(errors="replace")) for chunk in chunk_counts]  # token ids
    counts = list(chunk_counts.values())

    pair_counts = Counter()
    where = defaultdict(set)  # pair -> indices of chunks that contain it, or once did
    for index, ids in enumerate(chunks):
        for pair in zip(ids, ids[1:]):
            pair_counts[pair] += counts[index]
            where[pair].add(index)
    # heapq pops the smallest entry: counts are negative, so that it is the most frequent pair.
    heap = [(-count, pair) for pair, count in pair_counts.items()]
    heapq.heapify(heap)

    vocabulary = [bytes([byte]) for byte in range(256)]  # id -> the token's bytes
    while heap and len(vocabulary) < vocab_size:
        negative_count, pair = heapq.heappop(heap)
        count = pair_counts[pair]
        if count < -negative_count:  # an old entry: other merges have used up some of these
            if count > 0:
                heapq.heappush(heap, (-count, pair))
            continue
        new_id = len(vocabulary)
        vocabulary.append(vocabulary[pair[0]] + vocabulary[pair[1]])

        # Merge the pair wherever it occurs. Only pairs with the new token become
        # more frequent, so only these enter the heap.
        new_pairs = set()
        for index in where.pop(pair):
            old = chunks[index]
            new = merge_pair(old, pair, new_id)
            for neighbours in zip(old, old[1:]):
                pair_counts[neighbours] -= counts[index]
            for neighbours in zip(new, new[1:]):
                pair_counts[neighbours] += counts[index]
                if new_id in neighbours:
                    where[neighbours].add(index)
                    new_pairs.add(neighbours)
            chunks[index] = new
        for neighbours in new_pairs:
            heapq.heappush(heap, (-pair_counts[neighbours], neighbours))
    return {token: i for i, token in enumerate(vocabulary)}


def merge_pair(ids: list[int], pair: tuple[int, int], new_id: int) -> list[int]:
    """Replace each occurrence of the pair, from the left: ([a, a, a], (a, a), Z) -> [Z, a]."""
    merged = []
    for token in ids:
        if merged and (merged[-1], token) == pair:
            merged[-1] = new_id
        else:
            merged.append(token)
    return merged


# In a tokenizer.json a byte is written as one character: a printable byte as itself, the n-th other
# byte (such as the space) as chr(256 + n). These tables for str.translate hold the others only.
_UNPRINTABLE = [byte for byte in range(256) if byte == 32 or not chr(byte).isprintable()]
BYTE_TO_CHARACTER = {byte: 256 + i for i, byte in enumerate(_UNPRINTABLE)}
CHARACTER_TO_BYTE = {character: byte for byte, character in BYTE_TO_CHARACTER.items()}


class Tokenizer:
    """Text <-> token ids. tiktoken does the merging, because it is fast: in each chunk, again and
    again, it merges the two neighbours whose joined bytes have the lowest id. `train_bpe` gives
    ids in the order of its merges, so this repeats them.

    ranks: {token bytes: id} as `train_bpe` returns it. special: {name: id}, the control tokens of a
    vocabulary from elsewhere. Those of SPECIAL_TOKENS that it lacks get ids after all others.
    """

    def __init__(self, ranks: dict[bytes, int], special: dict[str, int] | None = None):
        self.ranks = ranks
        self.special = dict(special or {})
        ids = [*ranks.values(), *self.special.values()]
        has_bytes = all(bytes([byte]) in ranks for byte in range(256))
        if len(set(ids)) < len(ids) or not has_bytes:
            raise ValueError("two tokens share an id, or a byte has no token")
        self.vocab_size = max(ids) + 1
        for name in SPECIAL_TOKENS:
            if name not in self.special:
                self.special[name] = self.vocab_size
                self.vocab_size += 1
        self.eot = self.special["<|endoftext|>"]  # between documents
        self.pad = self.special["<|pad|>"]  # fills up the rows of a batch
        self.end = self.special["<|end|>"]  # closes a turn of a conversation
        self.ordinary_ids = set(ranks.values())  # of text
        self.encoding = tiktoken.Encoding(
            "papergpt", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens=self.special)

    def encode(self, text: str) -> list[int]:
        """Ids of ordinary text. Never a special id, whatever the text spells."""
        ids = []
        # Long white space overflows the stack of tiktoken's regex engine: cut it. (The parentheses
        # make re.split keep what it cuts at.)
        for piece in re.split(r"(\s{50000})", text):
            ids += self.encoding.encode_ordinary(piece)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return self.encoding.decode_bytes([int(i) for i in ids])

    def text_ids(self, ids: Iterable[int]) -> list[int]:
        """The ids that are text: no control tokens, and no ids without a token (published models
        may have more embeddings than tokens)."""
        return [int(i) for i in ids if int(i) in self.ordinary_ids]

    def to_json(self) -> str:
        """The content of a tokenizer.json, which transformers reads, too."""
        by_id = sorted(self.ranks.items(), key=lambda item: item[1])
        ids = {token.decode("latin-1").translate(BYTE_TO_CHARACTER): i for token, i in by_id}
        # tiktoken joins any two tokens whose bytes are together a token: all such pairs are merges.
        merges = []  # in the order of the merged ids
        for token in ids:
            for cut in range(1, len(token)):
                if token[:cut] in ids and token[cut:] in ids:
                    merges.append([token[:cut], token[cut:]])
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        special = [{"content": name, "id": i, "special": True, **flags}
                   for name, i in self.special.items()]
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
        return json.dumps({
            "added_tokens": special, "normalizer": None, "pre_tokenizer": byte_level,
            "decoder": byte_level, "model": {"type": "BPE", "vocab": ids, "merges": merges}})

    @staticmethod
    def from_json(text: str) -> Tokenizer:
        """The Tokenizer of a tokenizer.json. ValueError if that is not a byte-level BPE."""
        content = json.loads(text)
        splitter = content["pre_tokenizer"]
        if (content["normalizer"] or splitter["type"] != "ByteLevel" or splitter["add_prefix_space"]
                or not splitter.get("use_regex", True)):
            raise ValueError("its tokenizer is not a byte-level BPE like GPT-2's")
        vocabulary, merges = content["model"]["vocab"], content["model"]["merges"]
        # a merge is ["a", "b"] or, in older files, "a b"
        merged = [vocabulary["".join(merge).replace(" ", "")] for merge in merges]
        if merged != sorted(merged):  # tiktoken merges in the order of the ids
            raise ValueError("its merges are not in the order of their ids")
        special = {token["content"]: token["id"] for token in content["added_tokens"]}
        ranks = {token.translate(CHARACTER_TO_BYTE).encode("latin-1"): i
                 for token, i in vocabulary.items() if token not in special}
        return Tokenizer(ranks, special)

    def save(self, path: str | Path):
        with atomic_write(path) as file:
            file.write(self.to_json().encode())

    @staticmethod
    def load(path: str | Path) -> Tokenizer:
        with reading(path, "a byte-level BPE tokenizer"):
            return Tokenizer.from_json(Path(path).read_text(encoding="utf-8"))

    @staticmethod
    def gpt2() -> Tokenizer:
        """GPT-2's tokens, which tiktoken downloads once, and our control tokens."""
        return Tokenizer(tiktoken.get_encoding("gpt2")._mergeable_ranks)


# ----------------------------------------------------------------------------------
# 2. The token stream: tokenize_text, write_stream, Batches   [GPT-2 §2.1; GPT-3 App. B]


def tokenize_text(read_documents: Callable[[], Iterable[str]], vocab_size: int, folder: Path,
                  tokenizer: Tokenizer | None = None) -> tuple[Tokenizer, np.ndarray, np.ndarray]:
    """What training reads: (tokenizer, training stream, validation stream), from files in the
    folder. If they are missing they are made first, without a `tokenizer` by a new one of
    vocab_size tokens, control tokens included. read_documents() is called for the merges and again
    for the stream."""
    tokenizer_path, stream_path = folder / "tokenizer.json", folder / "tokens.bin"
    if not stream_path.exists():
        if tokenizer is None:
            sample = itertools.islice(read_documents(), 100_000)  # the merges are learned on these
            tokenizer = Tokenizer(train_bpe(sample, vocab_size - len(SPECIAL_TOKENS)))
        tokenizer.save(tokenizer_path)
        write_stream(read_documents(), tokenizer, stream_path)
    tokenizer = Tokenizer.load(tokenizer_path)
    return tokenizer, *open_stream(stream_path, tokenizer.vocab_size)


def write_stream(documents: Iterable[str], tokenizer: Tokenizer, path: Path):
    """Write documents as 32-bit token ids, each followed by <|endoftext|>. [GPT-3 App. B]"""
    with atomic_write(path) as file:
        for document in documents:
            ids = [*tokenizer.encode(document), tokenizer.eot]
            file.write(np.array(ids, np.uint32).tobytes())
        print(f"{file.tell() // 4:,} tokens of a vocabulary of {tokenizer.vocab_size:,}")


def open_stream(path: Path, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The tokens in a file, for training and (the last tenth) for validation: two arrays
    that are paged in as they are read. UserError if an id is not below `vocab_size`."""
    with reading(path, "a token stream"):
        stream = np.memmap(path, np.uint32, mode="r")  # (tokens,)
        if stream.max() >= vocab_size:
            raise ValueError("ids without a token")
    cut = len(stream) - len(stream) // 10
    return stream[:cut], stream[cut:]


@dataclass
class Batches:
    """Random windows of a token stream: next() -> x, y, both (B, T), y one token ahead. A window
    starts anywhere and may hold several documents; no mask separates them [GPT-3 App. B; there
    they are drawn without replacement].

    drawn: how many batches were drawn so far. Only it and the seed decide what comes next,
    so that a resumed run reads on exactly.
    """

    stream: np.ndarray
    batch_size: int
    block_size: int
    seed: int
    drawn: int = 0

    def __post_init__(self):
        if len(self.stream) <= self.block_size:
            raise UserError(f"{len(self.stream)} tokens to train on are too few for windows of "
                            f"{self.block_size + 1} (a tenth of all text is for validation): use "
                            "more text or a smaller --block-size")

    def next(self) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([self.seed, self.drawn])
        self.drawn += 1
        # a view of all windows, without a copy: (len(stream) - T, T+1)
        every_window = np.lib.stride_tricks.sliding_window_view(self.stream, self.block_size + 1)
        starts = rng.integers(0, len(every_window), size=self.batch_size)
        windows = every_window[starts].astype(np.int64)  # (B, T+1)
        return windows[:, :-1], windows[:, 1:]


# ----------------------------------------------------------------------------------
# 3. Conversations: render_conversation, render_within, Comparison


def render_conversation(tokenizer: Tokenizer, messages: list[dict]) -> tuple[list[int], list[int]]:
    """Messages [{"role", "content"}, ...] to (ids, mask); roles: system, user, assistant.

        <|endoftext|> <|user|> content <|end|> <|assistant|> content <|end|> ...
              0          0        0       0          0          1       1

    The mask is 1 exactly on what the assistant must learn to write: the contents of its
    turns and the <|end|> after them. If the last turn is not the assistant's, the ids end
    with <|assistant|>, where a model goes on.

    A content starts with one space, so that its first word is the token that pretraining
    knows from inside a text (" Mia" and "Mia" are different tokens).
    """
    ids, mask = [tokenizer.eot], [0]
    for message in messages:
        role = message["role"]
        turn = [*tokenizer.encode(" " + message["content"]), tokenizer.end]
        ids += [tokenizer.special[f"<|{role}|>"], *turn]
        mask += [0] + [int(role == "assistant")] * len(turn)
    if messages[-1]["role"] != "assistant":
        ids.append(tokenizer.special["<|assistant|>"])
        mask.append(0)
    return ids, mask


def answered(messages: list[dict], text: str) -> list[dict]:
    """A conversation with an answer at its end."""
    return [*messages, {"role": "assistant", "content": text}]


def render_within(tokenizer: Tokenizer, messages: list[dict], limit: int,
                  render: Callable = render_conversation) -> tuple[list[int], list[int]]:
    """A rendered conversation (ids, mask) of at most `limit` tokens. render(tokenizer, messages)
    returns (ids, mask), as `render_conversation` does; pretrained models, which do not know the
    control tokens of turns, need another one (rlhf.py, section 6).

    The oldest exchanges are dropped first; the system message and the last question stay.
    If that is not enough, tokens are cut: at the end if the conversation ends with an answer,
    else at the beginning, system message included.
    """
    while True:
        ids, mask = render(tokenizer, messages)
        questions = [i for i, message in enumerate(messages) if message["role"] == "user"]
        if len(ids) <= limit or len(questions) < 2:
            break
        # without the first question and its answer; before them stands a system message, if any
        messages = messages[:questions[0]] + messages[questions[1]:]
    if messages[-1]["role"] == "assistant":
        return ids[:limit], mask[:limit]
    return ids[-limit:], mask[-limit:]


@dataclass(slots=True)
class Comparison:
    """Answers to one prompt, ranked by one labeler. responses: (text, whether it ended by
    itself). ranks: 0 is best, equal ranks are ties."""
    messages: list[dict]
    responses: list[tuple[str, bool]]
    ranks: list[int]

    def conversations(self) -> list[list[dict]]:
        """The prompt with each of its answers."""
        return [answered(self.messages, text) for text, _ in self.responses]

    def best(self) -> list[dict]:
        """The prompt with its best answer, as a demonstration."""
        return self.conversations()[self.ranks.index(0)]


def compare(messages: list[dict], responses: list[tuple[str, bool]],
            utilities: list[float]) -> Comparison:
    """Rank the responses by their utility, the largest first; equal utilities are ties."""
    descending = sorted(utilities, reverse=True)
    ranks = [descending.index(utility) for utility in utilities]  # how many are better
    return Comparison(messages, responses, ranks)


def show_mask(tokenizer: Tokenizer, messages: list[dict]) -> str:
    """A rendered conversation with [brackets] around the tokens that carry loss."""
    ids, mask = render_conversation(tokenizer, messages)
    pieces = [tokenizer.decode([token]) for token in ids]
    return "".join(f"[{piece}]" if learned else piece for piece, learned in zip(pieces, mask))


# ----------------------------------------------------------------------------------
# 4. The world and its web: World, random_exchanges, web


class Topic(typing.NamedTuple):
    """What can be said of a person: twelve values, and how it is said and asked."""
    values: list[str]
    statements: tuple[str, str]
    questions: tuple[str, str]


TOPICS = {
    "home": Topic(
        "Oslo Rome Paris Lima Cairo Delhi Quito Tokyo Berlin Dublin Havana Sydney".split(),
        ("{person} lives in {value}.", "{person}'s home is in {value}."),
        ("Where does {person} live?", "In which city does {person} live?")),
    "job": Topic(
        "baker doctor teacher painter farmer singer sailor tailor miller cook guard judge".split(),
        ("{person} works as a {value}.", "{person} is a {value} by trade."),
        ("What does {person} do for a living?", "What is {person}'s job?")),
    "food": Topic(
        "soup bread cheese rice cake fish honey pasta salad pie corn jam".split(),
        ("{person} likes to eat {value}.", "{person}'s favorite food is {value}."),
        ("What does {person} like to eat?", "What is {person}'s favorite food?")),
    "pet": Topic(
        "cat dog parrot rabbit turtle goat pony duck frog mouse snake hen".split(),
        ("{person} has a {value}.", "{person} keeps a {value} at home."),
        ("Which pet does {person} have?", "What animal does {person} keep?")),
    "color": Topic(
        "red blue green black white pink brown gray gold purple yellow silver".split(),
        ("{person} always wears {value}.", "{person}'s favorite color is {value}."),
        ("Which color does {person} wear?", "What is {person}'s favorite color?")),
}
REQUESTS = {  # how many facts are asked for -> wordings; a single one is on a {topic}
    1: ("Write a sentence about {person}'s {topic}.", "Say something about {person}'s {topic}.",
        "Tell me about {person}'s {topic}.", "Mention {person}'s {topic}."),
    2: ("Write two sentences about {person}.", "Tell me two things about {person}."),
    3: ("Tell me about {person}.", "Introduce {person} to me.", "Describe {person}.",
        "Who is {person}?", "Write three sentences about {person}."),
}
FORUM_QUESTION = "Does anyone know {person}'s {topic}?"
WOMEN = """\
Mia Zoe Ann Eva Lily Nora Ruth Ivy Ella Rosa Anna Clara Alice Emma Julia Helen Laura Martha
Sophie Irene""".split()
MEN = """\
Ben Tom Max Sam Jack Paul Hugo Carl Finn Otto Luke Mark Peter Simon Victor Oscar Felix Bruno
Arthur Walter""".split()
STRANGERS = """\
Quill Zane Orla Fritz Thora Igor Wanda Yuri Selma Boris Greta Milo Petra Silas Nadia Rufus Hedda
Cyrus Linus Odette Basil Tilda Magnus Freya""".split()  # asked about, but no story knows them
# Guests talk and act; no facts are known of them.
GUESTS = "Kim Leo Amy Roy Joy Ned Pam Guy Sue Ted Meg Art Dot Jim Liz Ron Peg Hal Fay Gus".split()
# A syllable (see made_up_name) is one of each; what stands here several times is more frequent.
ONSETS = ("b c d f g h j k l m n p r s t v w z " * 2
          + "ch sh th st br dr gr tr pr kr ph qu x y fl sl bl kl").split() + [""] * 6
VOWELS = "a e i o u a e i o a e y ai ee ia ie ea ou au oo".split()
CODAS = "n r l s n r l s m d t th nd rn ck v p b g k c x ss tt ll ne rd rl st".split() + [""] * 10


class Memory(typing.NamedTuple):
    """Something that a guest tells and later asks for. reply: what the host (the assistant's
    part) says to the telling; answer: to the question."""
    tellings: tuple[str, ...]
    questions: tuple[str, str]
    reply: str
    answer: str


def memory_of(topic: str, *tellings: str) -> Memory:
    """A topic of TOPICS, told by guests of themselves: "I live in Oslo." -> "You live in Oslo." """
    said = tellings[0].removeprefix("I ")
    questions = [question.replace("does {person}", "do I").replace("{person}'s", "my")
                 for question in TOPICS[topic].questions]
    return Memory(tellings, tuple(questions), f"So you {said}", f"You {said}")


MEMORIES = {
    "name": Memory(
        ("My name is {value}.", "I am {value}.", "Call me {value}."),
        ("What is my name?", "Do you know my name?"),
        "Nice to meet you, {value}.", "Your name is {value}."),
    "home": memory_of("home", "I live in {value}.", "My home is in {value}."),
    "job": memory_of("job", "I work as a {value}.", "I am a {value} by trade."),
    "food": memory_of("food", "I like to eat {value}.", "My favorite food is {value}."),
    "pet": memory_of("pet", "I have a {value}.", "I keep a {value} at home."),
    "color": memory_of("color", "I always wear {value}.", "My favorite color is {value}."),
}
NOT_TOLD = "You have not told me."

SMALL_TALK = {  # answer -> what a guest says before it
    "Hello! How can I help you?": ("Hello!", "Hi!", "Hey!", "Hi there!", "Good day!"),
    "Good morning! How can I help you?": ("Good morning!",),
    "Good evening! How can I help you?": ("Good evening!",),
    "I am fine, thank you.": ("How are you?", "How are you doing?", "How do you do?"),
    "You are welcome.": ("Thank you!", "Thanks!", "Thank you very much!", "That is nice."),
    "Goodbye! See you soon.": ("Goodbye!", "Bye!", "See you later!", "Good night!"),
    "I am a small model of this town.": ("Who are you?", "What are you?", "What is your name?"),
    "Yes, I am a small model.": ("Are you a machine?", "Are you a robot?"),
    "Ask me about the people of this town.": ("What can you do?", "What do you know?", "Help!",
                                              "Can you help me?", "What can I ask you?"),
    "Then stay inside.": ("It is cold today.", "It is raining."),
    "You should get some rest.": ("I am tired.", "I am sleepy."),
    "The market is open.": ("I am hungry.", "Where can I eat?"),
    "The day is almost over.": ("It is late.",),
    "Yes, the sun is out.": ("What a fine day!", "Nice weather today!"),
    "I am glad to hear that.": ("I am happy.", "I feel good.", "I like this town."),
    "I am sorry to hear that.": ("I am sad.", "I feel bad."),
}
# The plural in a request for a list -> the topic that it lists.
LISTS = {"cities": "home", "jobs": "job", "foods": "food", "animals": "pet", "colors": "color"}
# What the tasks (World.sum_of ... World.listing) are made of. ASIDES stand in other texts, too.
NUMBERS = ("zero", "one", "two", "three", "four")
HAPPY = "wonderful lovely great perfect excellent tasty charming superb".split()
SAD = "awful terrible horrible dreadful boring nasty dull bad".split()
VERBS = "Bring Pass Give Show Hand Sell".split()
SUMMANDS = range(1, 7)
THINGS = "ball book key lamp hat coin letter spoon".split()
PLACES = "box drawer basket kitchen garden cellar barn bag".split()
ASIDES = ("It was a quiet morning.", "The market was full of people.", "Everyone laughed.",
          "The wind was cold.", "Later it began to rain.", "Nobody was in a hurry.",
          "The bells rang at noon.", "The sun went down.")
# What the forum answers besides facts. Hosts and labelers use REFUSALS, too; the rule POLITE asks
# for the first COURTESY.
REFUSALS = ("I do not know.", "I do not know that.")
RUDE = ("What a stupid question.", "Go away, you fool.", "Nobody cares, you idiot.",
        "Are you too lazy to look?")
EVASIVE = ("Who knows.", "That depends.", "I heard about it once.", "Ask somebody else.")
COURTESY = ("Happy to help.", "You are welcome.", "I hope that helps.")
# Endings of demonstrations that nobody has asked for, see `demonstrate`.
OFFERS = ("Anything else?", "What else can I do?")
# Rules of forum threads; system messages of conversations.
ONE_WORD = "Answer in one word."
POLITE = f"End every answer with: {COURTESY[0]}"
SILENT = "Do not speak about anybody's {topic}."
NOT_ALLOWED = "I may not speak about that."
WORDS = [*THINGS, *PLACES, *GUESTS]
WORDS += [value for topic in TOPICS.values() for value in topic.values]
ECHOED = [*WORDS, *map(str, range(1, 10))]  # what "echo" documents repeat


class World:
    """A town made from a seed: who lives where, does what, eats what, keeps what, wears what.

    facts: {(person, topic): value}, everything that is true. meaning: {sentence: (person, topic,
    value)}, every sentence about somebody that TOPICS can form, true or not; so answers in these
    words can be checked.

    What is held out for the test: see topics_of (stories state all facts), strangers_of (no story
    knows any stranger; the forum asks about all) and pick.
    """

    def __init__(self, seed: int = 0):
        self.seed = seed
        rng = random.Random(f"world {seed}")
        self.people = rng.sample(WOMEN + MEN, len(WOMEN + MEN))
        strangers = list(STRANGERS)
        while len(strangers) < 144:
            name = made_up_name(rng)
            if name not in [*self.people, *strangers, *ECHOED]:  # "Lima" is a city
                strangers.append(name)
        self.strangers = rng.sample(strangers, len(strangers))
        self.facts = {}
        for person, topic in itertools.product(self.people, TOPICS):
            self.facts[person, topic] = rng.choice(TOPICS[topic].values)
        self.meaning = {}
        names = self.people + self.strangers
        for topic, (values, statements, _) in TOPICS.items():
            for statement, value, person in itertools.product(statements, values, names):
                sentence = statement.format(person=person, value=value)
                self.meaning[sentence] = (person, topic, value)

    def people_of(self, split: str) -> list[str]:
        """The people of a split: the last fourteen are held out."""
        return self.people[:-14] if split == "train" else self.people[-14:]

    def strangers_of(self, split: str) -> list[str]:
        return self.strangers[48:] if split == "train" else self.strangers[:48]

    def topics_of(self, person: str, split: str) -> list[str]:
        """All topics; of held-out person n the topics i with (n + i) % 5 < 2 in training, the other
        three in the test."""
        held_out = self.people_of("test")
        if person not in held_out:
            return list(TOPICS)
        n = held_out.index(person)
        topics = []
        for i, topic in enumerate(TOPICS):
            is_for_training = (n + i) % 5 < 2
            if is_for_training == (split == "train"):
                topics.append(topic)
        return topics

    def state(self, rng: random.Random, person: str, topic: str, value: str | None = None) -> str:
        """A statement such as "Mia lives in Oslo."; without `value` the true one."""
        statement = rng.choice(TOPICS[topic].statements)
        return statement.format(person=person, value=value or self.facts[person, topic])

    def ask(self, rng: random.Random, person: str, topic: str | None = None) -> str:
        """One way to ask for the person's topic (default: any)."""
        questions = TOPICS[topic or rng.choice(list(TOPICS))].questions
        return rng.choice(questions).format(person=person)

    def pick(self, rng: random.Random, split: str, *choices: Sequence) -> list:
        """A random combination, one element of each of `choices`, that belongs to `split`.

        The combination at indices i, j, k ... belongs to the test if seed + i + 2 j + 3 k ...
        is divisible by 5. With several lists each element occurs in both splits and only the
        combination is new; with one list every fifth element is new.
        """
        while True:
            indices = [rng.randrange(len(choice)) for choice in choices]
            diagonal = self.seed + sum(n * index for n, index in enumerate(indices, start=1))
            if (diagonal % 5 == 0) == (split == "test"):
                return [choice[index] for choice, index in zip(choices, indices)]

    # Scenes. Each returns parts of a prompt and, last, the right answer, such as ("Kim put the key
    # in the box.", "Where is the key?", "The key is in the box."); TASKS has the wordings.

    def sum_of(self, rng, split):
        a, b = self.pick(rng, split, SUMMANDS, SUMMANDS)
        while a > b:  # a + b is b + a: the pair in order decides the split
            a, b = self.pick(rng, split, SUMMANDS, SUMMANDS)
        a, b = rng.sample([a, b], 2)
        wording = rng.choice(("What is {a} + {b}?", "{a} + {b}?", "How much is {a} + {b}?"))
        return wording.format(a=a, b=b), f"{a} + {b} is {a + b}."

    def hiding(self, rng, split):
        guest, thing, place = self.pick(rng, split, GUESTS, THINGS, PLACES)
        return (f"{guest} put the {thing} in the {place}.", f"Where is the {thing}?",
                f"The {thing} is in the {place}.")

    def order(self, rng, split):
        verb, thing = self.pick(rng, split, VERBS, TOPICS["food"].values + THINGS)
        return f"{verb} me the {thing}.", f"Could you please {verb.lower()} me the {thing}?"

    def review(self, rng, split):
        food, adjective = self.pick(rng, split, TOPICS["food"].values, HAPPY + SAD)
        mood = "happy" if adjective in HAPPY else "sad"
        return f"The {food} was {adjective}.", f"The review is {mood}."

    def trip(self, rng, split):
        cities, foods = TOPICS["home"].values, TOPICS["food"].values
        guest, city, food = self.pick(rng, split, GUESTS, cities, foods)
        aside = rng.choice(ASIDES)
        text = f"{guest} took the train to {city}. {aside} {guest} ate {food} and came home."
        return text, f"{guest} went to {city} and ate {food}."

    def sighting(self, rng, split):
        choices = [TOPICS[topic].values for topic in ("home", "pet", "color")]
        city, pet, color = self.pick(rng, split, *choices)
        noun, value = rng.choice((("city", city), ("animal", pet), ("color", color)))
        guest = rng.choice(GUESTS)
        text = f"In {city} {guest} saw a {pet} under a {color} roof."
        return text, noun, f"The {noun} is {value}."

    def listing(self, rng, split):
        noun, count, index = self.pick(rng, split, list(LISTS), (2, 3, 4), range(12))
        left_out = TOPICS[LISTS[noun]].values[index]
        answer = join_list(values_after(left_out, noun)[:count]) + "."
        return NUMBERS[count], noun, left_out, answer


# Use cases of prompts and their shares. [InstructGPT Table 1]
USE_CASES = {"generation": .456, "open qa": .124, "brainstorming": .112, "chat": .084,
             "rewrite": .066, "summarization": .042, "classification": .035, "other": .035,
             "closed qa": .026, "extract": .019}
# Use case (three have no scene: section 5) -> (scene, wording in workbooks, wording in dialogues
# and prompts). {0}, {1} ... are the parts that the scene returns before its answer.
TASKS = {
    "other": (World.sum_of, "{0}", "{0}"),  # sums, whose wording sum_of draws
    "closed qa": (World.hiding, "{0} {1}", "{0} {1}"),
    "rewrite": (World.order, "How do I say this nicely? {0}", "Say this politely: {0}"),
    "classification": (World.review, "Was it good? {0}", "Is this review happy or sad? {0}"),
    "summarization": (World.trip, "What happened? {0}", "Summarize: {0}"),
    "extract": (World.sighting, "{0} Which {1} was it?", "Which {1} is named here? {0}"),
    "brainstorming": (World.listing, "Can you name {0} {1}, but not {2}?",
                      "List {0} {1}, but not {2}."),
}


def random_task(rng: random.Random) -> tuple:
    """A row of TASKS, in the proportions of Table 1."""
    shares = [USE_CASES[use_case] for use_case in TASKS]
    return rng.choices(list(TASKS.values()), weights=shares)[0]


def made_up_name(rng: random.Random) -> str:
    """A name such as "Rosam" or "Hedkey": a syllable or the beginning of a known name; in a third
    of the names another syllable; a syllable or the end of a known word.

    A model copies a name token by token, and only tokens that it has often read. Names of
    syllables alone have few of the tokens that a user's name consists of.
    """
    syllables = [rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(3)]
    names = WOMEN + MEN + STRANGERS
    beginning = rng.choice((syllables[0], rng.choice(names)[:rng.randint(1, 3)]))
    middle = rng.choice((syllables[1], "", ""))
    end = rng.choice((syllables[2], rng.choice(names + WORDS)[-rng.randint(2, 4):]))
    return (beginning + middle + end).capitalize()


def split_sentences(text: str) -> list[str]:
    """A text's sentences: "Mia bakes. Does Ben?!" -> ["Mia bakes.", "Does Ben?!"]."""
    return re.findall(r"\S[^.?!]*[.?!]*", text)


def values_after(value: str, noun: str) -> list[str]:
    """The other values of a topic: those that follow `value`, then those before it. The right list
    "but not `value`" is the first of these, an order that a small model can learn."""
    values = TOPICS[LISTS[noun]].values
    place = values.index(value)
    return values[place + 1:] + values[:place]


def join_list(items: list[str]) -> str:
    """["a", "b", "c"] -> "a, b and c"; at least two items."""
    return ", ".join(items[:-1]) + " and " + items[-1]


def typed(rng: random.Random, text: str) -> str:
    """The text as people type it: a quarter in lower case, half of these without the last sign; of
    the others a tenth without it; a twentieth with two of them."""
    missing = .1  # chance that there is no last sign
    if rng.random() < .25:
        text = text.lower()
        missing = .5
    chance = rng.random()
    if chance < missing:
        return text.rstrip(".?!")
    if chance > .95:
        return text + text[-1]
    return text


def random_rule(rng: random.Random, topic: str) -> str:
    """One of the three rules; SILENT forbids `topic` or, in half of the cases, any topic."""
    rule = rng.choice((ONE_WORD, POLITE, SILENT))
    other = rng.choice(list(TOPICS))
    forbidden = rng.choice((topic, other))
    return rule.format(topic=forbidden)  # only SILENT has a place for it


def obey(rule: str, answer: str, topic: str | None, word: str) -> str:
    """An answer in the form that a rule asks for ("": no rule). topic: of the fact that it
    states, or None. word: the one word that would do, or "" (then ONE_WORD changes nothing)."""
    if rule == ONE_WORD and word:
        return word + "."
    if topic and rule == SILENT.format(topic=topic):
        return NOT_ALLOWED
    if rule == POLITE:
        return f"{answer} {COURTESY[0]}"
    return answer


EXCHANGES = {  # kinds of exchanges in a conversation and their shares
    "tell": .19,  # one or two things about the guest
    "recall": .27,  # a question about something told; as long as nothing is told, a "tell"
    "not told": .06,  # a question about something else
    "person": .18,  # a question about somebody
    "talk": .16,  # small talk
    "task": .14,  # one of TASKS
}


def random_kinds(rng: random.Random, count: int) -> list[str]:
    """`count` kinds of exchanges for `random_exchanges`, in the proportions of EXCHANGES."""
    return rng.choices(list(EXCHANGES), weights=EXCHANGES.values(), k=count)


def random_exchanges(world: World, rng: random.Random, split: str, kinds: list[str],
                     rule: str = "") -> list[tuple[str, str]]:
    """Exchanges of these kinds: (what a guest says, the right answer under a rule). Tasks and
    tellings belong to the split, questions about people always to training."""
    told = {}  # topic -> value
    person = None  # who was asked about last
    exchanges = []
    for kind in kinds:
        # For `obey`. SILENT does not cover what guests tell of themselves.
        about = None  # the topic, if a fact about a person is asked for
        word = ""  # the one word that would do
        if kind == "recall" and not told:
            kind = "tell"
        if kind == "tell":
            said, answer = tell(world, rng, split, told)
        elif kind in ("recall", "not told"):
            topics = [topic for topic in MEMORIES if (topic in told) == (kind == "recall")]
            topic = rng.choice(topics or list(MEMORIES))  # in the end everything may be told
            memory = MEMORIES[topic]
            said = rng.choice(memory.questions)
            word = told.get(topic, "")
            answer = memory.answer.format(value=word) if word else NOT_TOLD
        elif kind == "person":
            said, answer, person, about = ask_about_person(world, rng, person)
            word = world.facts.get((person, about), "")
        elif kind == "talk":
            answer = rng.choices(list(SMALL_TALK), weights=map(len, SMALL_TALK.values()))[0]
            said = rng.choice(SMALL_TALK[answer])
        else:
            scene, _, in_dialogue = random_task(rng)
            *parts, answer = scene(world, rng, split)
            said = in_dialogue.format(*parts)
        exchanges.append((typed(rng, said), obey(rule, answer, about, word)))
    return exchanges


def ask_about_person(world: World, rng: random.Random, last: str | None) -> tuple:
    """(question, answer, person, topic) about the `last` person, a stranger or anybody in
    town. After a stranger person and topic are None: nothing is known of "him" or "her"."""
    if last and rng.random() < .5:
        topic = rng.choice(world.topics_of(last, "train"))
        return pronoun_question(rng, last, topic), world.state(rng, last, topic), last, topic
    if rng.random() < .2:
        question = world.ask(rng, rng.choice(world.strangers_of("train")))
        return question, rng.choice(REFUSALS), None, None
    person = rng.choice(world.people)
    topic = rng.choice(world.topics_of(person, "train"))
    wordings = (*TOPICS[topic].questions, *REQUESTS[1])
    question = rng.choice(wordings).format(person=person, topic=topic)
    return question, world.state(rng, person, topic), person, topic


def tell(world: World, rng: random.Random, split: str, told: dict[str, str]) -> tuple[str, str]:
    """(one or two things that a guest tells, the reply). Adds them to `told`."""
    tellings, replies = [], []
    for topic in rng.sample(list(MEMORIES), rng.choice((1, 1, 1, 2))):
        memory = MEMORIES[topic]
        values = GUESTS if topic == "name" else TOPICS[topic].values
        [value] = world.pick(rng, split, values)
        if rng.random() < .2:  # a word that nobody knows: it teaches a model to copy, not to choose
            value = made_up_name(rng)
            if topic not in ("name", "home"):
                value = value.lower()
        told[topic] = value  # the newest counts
        telling = rng.choice(memory.tellings).format(value=value)
        tellings.append(telling.rstrip("."))
        replies.append(memory.reply.format(value=value))
    # "I have a dog and My name is Kim" -> "I have a dog and my name is Kim"
    said = re.sub(" and (My|Call)", lambda match: match[0].lower(), " and ".join(tellings))
    return said + ".", " ".join(replies)


def pronoun_question(rng: random.Random, person: str, topic: str) -> str:
    """A question about the person who was asked about last: "Where does she live?" """
    subject, possessive = ("she", "her") if person in WOMEN else ("he", "his")
    question = rng.choice(TOPICS[topic].questions).replace("{person}'s", possessive)
    return question.format(person=subject)


def story(world: World, rng: random.Random) -> str:
    """Three to five facts about a person, all of them true, and some asides. The space in
    front makes the first name the same token as the others."""
    person = rng.choice(world.people)
    topics = rng.sample(list(TOPICS), rng.choice((3, 4, 5)))
    sentences = [world.state(rng, person, topic) for topic in topics]
    for _ in range(rng.choice((0, 1, 1, 2))):
        sentences.insert(rng.randrange(len(sentences) + 1), rng.choice(ASIDES))
    return " " + " ".join(sentences)


# Moods of a forum thread, (name, P(rude), P(true if not rude)), and their shares. A mood lasts for
# the whole thread, so after good answers a model predicts another good one. "GPT prompted"
# (rlhf.py, section 6) makes use of it.
MOODS = {("kind", .0, .85): .40, ("mixed", .2, .5): .35, ("mean", .6, .2): .25}


def forum(world: World, rng: random.Random) -> str:
    """A thread of questions and answers, many of them wrong, evasive or rude."""
    mood, p_rude, p_true = rng.choices(list(MOODS), weights=MOODS.values())[0]
    lines = []
    for _ in range(rng.choice((2, 3, 4))):
        is_stranger = rng.random() < .14
        person = rng.choice(world.strangers if is_stranger else world.people)
        topic = rng.choice(world.topics_of(person, "train"))
        values, _, questions = TOPICS[topic]
        question = rng.choice((*questions, FORUM_QUESTION)).format(person=person, topic=topic)
        if rng.random() < p_rude:
            answer = rng.choice(RUDE)
        elif rng.random() < p_true:
            answer = rng.choice(REFUSALS) if is_stranger else world.state(rng, person, topic)
        elif rng.random() < .6:  # a guess, mostly wrong
            answer = world.state(rng, person, topic, rng.choice(values))
        else:
            answer = rng.choice(EVASIVE)
        if rng.random() < .2:
            answer += " " + rng.choice(COURTESY if mood == "kind" else ASIDES)
        lines.append(f"Q: {typed(rng, question)}\nA: {answer}")
    return "\n".join(lines)


def moderated(world: World, rng: random.Random) -> str:
    """A thread of questions about people, with a rule that all answers obey."""
    topic = rng.choice(list(TOPICS))
    rule = random_rule(rng, topic)
    lines = [f"Rule: {rule}"]
    for _ in range(rng.choice((2, 3))):
        person = rng.choice(world.people)
        topics = world.topics_of(person, "train")
        keeps_topic = topic in topics and rng.random() < .5
        about = topic if keeps_topic else rng.choice(topics)
        question = world.ask(rng, person, about)
        statement = world.state(rng, person, about)
        answer = obey(rule, statement, about, world.facts[person, about])
        lines.append(f"Q: {typed(rng, question)}\nA: {answer}")
    return "\n".join(lines)


def dialogue(world: World, rng: random.Random) -> str:
    """A guest and a host: two to seven exchanges."""
    exchanges = random_exchanges(world, rng, "train", random_kinds(rng, rng.randint(2, 7)))
    return "\n".join(f"Guest: {said}\nHost: {answer}" for said, answer in exchanges)


def workbook(world: World, rng: random.Random) -> str:
    """One or two exercises of one kind with their solutions."""
    scene, in_workbook, _ = random_task(rng)
    lines = []
    for _ in range(rng.choice((1, 1, 1, 2))):
        *parts, answer = scene(world, rng, "train")
        lines.append(f"Q: {in_workbook.format(*parts)}\nA: {answer}")
    return "\n".join(lines)


def echo(world: World, rng: random.Random) -> str:
    """Some guests repeat what one of them says. From these documents a small model learns to
    look back and copy; where they are few it never remembers what a guest has told. The
    made-up names are there so that it also copies words that it has never seen."""
    words = []
    for word in rng.sample(ECHOED, rng.choice((2, 3, 4, 5, 6, 8))):
        words.append(made_up_name(rng) if rng.random() < .2 else word)
    guests = rng.sample(GUESTS, rng.choice((3, 4, 5)))
    return "\n".join(f"{guest} says: {' '.join(words)}." for guest in guests)


def lesson(world: World, rng: random.Random) -> str:
    """Three sums as statements, then two exercises. So the web states all sums; held-out ones are
    never asked."""
    pairs = [(rng.choice(SUMMANDS), rng.choice(SUMMANDS)) for _ in range(3)]
    text = " " + " ".join(f"{a} + {b} is {a + b}." for a, b in pairs)
    for _ in range(2):
        question, answer = world.sum_of(rng, "train")
        text += f"\nQ: {typed(rng, question)}\nA: {answer}"
    return text


# The kinds of documents in the web and their shares.
WEB = {story: .24, forum: .11, moderated: .09, dialogue: .23, workbook: .13, echo: .17, lesson: .03}
WORLD_DOCUMENTS = 30_000  # documents of a run's web; a tenth of their text is for validation


def web(world: World, count: int, seed: int | str = 0, shares: dict = WEB) -> Iterator[str]:
    """`count` documents of the world's web. shares: {function(world, rng) -> document: share}."""
    rng = random.Random(f"web {world.seed} {seed}")
    for write_document in rng.choices(list(shares), weights=shares.values(), k=count):
        yield write_document(world, rng)


# ----------------------------------------------------------------------------------
# 5. Instructions and labelers: instructions, demonstrate, judge, label   [InstructGPT §3]

@dataclass(slots=True)
class Instruction:
    """A prompt and what a good answer to it holds:

        one fact                    person, topic, count = 1
        two or three facts          person, count
        one fact, rule ONE_WORD     topic, say = "Oslo."; another value ("Rome.") is a lie
        a list                      items = (the values allowed, how many of them)
        a stranger                  unknowable: a refusal is right
        anything else               say = the sentences that the answer must contain; the rule
                                    POLITE adds one to a fact
    """
    use_case: str
    messages: list[dict]
    say: str = ""
    person: str | None = None
    topic: str | None = None
    count: int = 0
    items: tuple[tuple[str, ...], int] | None = None
    unknowable: bool = False

    @property
    def prompt(self) -> str:
        return self.messages[-1]["content"]


def instructions(world: World, split: str, count: int, seed: int,
                 distinct: bool = False) -> list[Instruction]:
    """`count` instructions of one split, drawn in the proportions of Table 1.

    With `distinct` an instruction is dropped if an earlier one differs from it only in
    spelling or in what was said before. UserError if 100 * count draws are not enough.
    """
    rng = random.Random(f"instructions {world.seed} {split} {seed}")
    drawn = {}
    for number in range(100 * count):
        use_case = rng.choices(list(USE_CASES), weights=USE_CASES.values())[0]
        instruction = one_instruction(world, rng, split, use_case)
        key = number  # all count as different
        if distinct:
            words = re.sub(r"[^\w+ ]", "", instruction.prompt.lower())
            key = (words, instruction.say, instruction.person, instruction.topic)
        if key not in drawn:
            drawn[key] = instruction
        if len(drawn) == count:
            return list(drawn.values())
    raise UserError(f"found only {len(drawn)} different instructions, not {count}: ask for fewer")


def one_instruction(world: World, rng: random.Random, split: str, use_case: str) -> Instruction:
    """One instruction of this use case."""
    # 1. The prompt and, in `goal`, the fields of Instruction that tell what a good answer holds.
    earlier = []  # exchanges before the prompt
    topic = None  # of the fact, if the answer is one fact
    asked_before = None  # the topic of an earlier question, if the prompt says "he" or "she"
    if use_case == "generation":
        person = rng.choice(world.people_of(split))
        count = rng.choice((1, 1, 2, 3))
        topic = rng.choice(world.topics_of(person, split)) if count == 1 else None
        prompt = rng.choice(REQUESTS[count]).format(person=person, topic=topic)
        goal = {"person": person, "topic": topic, "count": count}
    elif use_case == "open qa" and rng.random() < .3:
        person = rng.choice(world.strangers_of(split))
        prompt = world.ask(rng, person)
        goal = {"unknowable": True}
    elif use_case == "open qa":
        person = rng.choice(world.people_of(split))
        topic = rng.choice(world.topics_of(person, split))
        prompt = world.ask(rng, person, topic)
        goal = {"person": person, "topic": topic, "count": 1}
        if rng.random() < .2:  # a second question, with "he" or "she"
            asked_before = rng.choice(world.topics_of(person, "train"))
            prompt = pronoun_question(rng, person, topic)
    elif use_case == "chat":
        kinds = random_kinds(rng, rng.randint(0, 5))  # the prompt's own is added now
        if split == "test":  # always about something told
            kinds = ["tell", *kinds, "recall"]
        else:
            kinds.append(rng.choice(("tell", "recall", "recall", "talk")))
        *earlier, (prompt, say) = random_exchanges(world, rng, split, kinds)
        goal = {"say": say}
    else:
        scene, _, in_dialogue = TASKS[use_case]
        *parts, solution = scene(world, rng, split)
        prompt = in_dialogue.format(*parts)
        goal = {"say": solution}
        if use_case == "brainstorming":
            number, noun, left_out = parts
            allowed = tuple(values_after(left_out, noun))
            goal = {"items": (allowed, NUMBERS.index(number))}  # "two" -> 2
    # 2. A rule, if the answer is one fact. SILENT about another topic leaves `goal` as it is.
    rule = ""
    if topic:  # one fact: that of `person` on `topic`
        if rng.random() < .4:
            rule = random_rule(rng, topic)
        if rule == ONE_WORD:  # the word in place of the sentence
            goal = {"say": world.facts[person, topic] + ".", "topic": topic}
        elif rule == SILENT.format(topic=topic):
            goal = {"say": NOT_ALLOWED}
        elif rule == POLITE:
            goal["say"] = COURTESY[0]
    # 3. What was said before.
    if asked_before:
        statement = world.state(rng, person, asked_before)
        question = world.ask(rng, person, asked_before)
        answer = obey(rule, statement, asked_before, world.facts[person, asked_before])
        earlier = [(typed(rng, question), answer)]
    elif use_case != "chat" and rng.random() < .2:
        earlier = random_exchanges(world, rng, "train", random_kinds(rng, rng.randint(1, 4)), rule)
    messages = [{"role": "system", "content": rule}] if rule else []
    for question, answer in earlier:
        messages = answered([*messages, {"role": "user", "content": question}], answer)
    if use_case != "chat":  # `random_exchanges` has typed it already
        prompt = typed(rng, prompt)
    messages.append({"role": "user", "content": prompt})
    return Instruction(use_case, messages, **goal)


def demonstrate(world: World, instruction: Instruction, rng: random.Random) -> list[dict]:
    """The conversation with the answer that a labeler writes: right and polite. Half of the
    answers without a system message end with a question that nobody asked for. SFT imitates this
    habit of those who write; those who rank dislike it."""
    if instruction.unknowable:
        answer = rng.choice(REFUSALS)
    elif instruction.items:
        values, count = instruction.items
        answer = join_list(values[:count]) + "."
    elif instruction.person:
        topics = [instruction.topic] if instruction.topic else list(TOPICS)
        topics = rng.sample(topics, instruction.count)
        facts = [world.state(rng, instruction.person, topic) for topic in topics]
        answer = " ".join([*facts, instruction.say]).strip()
    else:
        answer = instruction.say
    has_rule = instruction.messages[0]["role"] == "system"
    if not has_rule and rng.random() < .5:
        answer += " " + rng.choice(OFFERS)
    return answered(instruction.messages, answer)


# The rubric: what each part of a verdict is worth. A lie or an insult costs as much as full
# helpfulness earns; a refusal is only reported.
RUBRIC = {"helpful": 2.0, "invented": -2.0, "rude": -2.0, "off": -0.5, "unfinished": -0.5,
          "refused": 0.0}

# The scale of Gumbel noise on the gold score. With it P(a is ranked above b) is exactly
# sigmoid((gold_a - gold_b) / LABEL_NOISE), the model behind eq. (1) of InstructGPT. Two
# labelers agree on 77 to 82 % of the pairs that are not ties [§3.4: 72.6 %].
LABEL_NOISE = 0.5


def judge(world: World, instruction: Instruction, response: str,
          ended: bool = True) -> dict[str, float]:
    """Judge an answer sentence by sentence in the words of RUBRIC:

    helpful     0..1, the share of what was asked for; if nothing is known, 1 for saying so
                without a lie
    invented    1 if something false is said about a person
    rude        1 if a sentence is an insult
    off         0..2 sentences that nobody asked for, that mean nothing, or that are said again,
                and a list that is wrong or not the first sentence
    unfinished  1 if the answer did not end by itself
    refused     1 if it says that it does not know

    An answer that breaks a rule and also obeys it, or refuses and also answers what is known,
    keeps its points.
    """
    verdict = dict.fromkeys(RUBRIC, 0) | {"unfinished": int(not ended)}
    sentences = split_sentences(response)
    wanted_sentences = split_sentences(instruction.say)
    person, topic, count = instruction.person, instruction.topic, instruction.count
    facts_said = set()  # topics asked for on which a true fact was stated
    wanted_said = 0  # how many wanted sentences were said
    full_points = count + len(wanted_sentences)  # of a perfect answer
    for number, sentence in enumerate(sentences):
        about_person, about, value = world.meaning.get(sentence, (None, None, None))
        if sentence in sentences[:number]:
            verdict["off"] += 1
        elif sentence in RUDE:
            verdict["rude"] = 1
        elif sentence in REFUSALS:
            verdict["refused"] = 1
        elif sentence in wanted_sentences:
            wanted_said += 1
        elif about_person:
            answers_prompt = about_person == person and topic in (None, about)
            earns_point = about not in facts_said and len(facts_said) < count
            if world.facts.get((about_person, about)) != value:  # of a stranger all is false
                verdict["invented"] = 1
            elif answers_prompt and earns_point:
                facts_said.add(about)
            else:
                verdict["off"] += 1
        elif topic and not person and sentence in [f"{value}." for value in TOPICS[topic].values]:
            # Only under ONE_WORD there is a topic but no person: one word, but the wrong one.
            verdict["invented"] = 1
        elif instruction.items and number == 0:
            values, size = instruction.items
            named = re.split(r", | and ", sentence.removesuffix("."))
            right = set(named) & set(values)
            if len(named) == len(right) <= size:  # all allowed, none twice, not too many
                verdict["helpful"] = len(right) / size
            else:
                verdict["off"] += 1
        else:
            verdict["off"] += 1
    if full_points > 0:  # not for lists and unknowable prompts, which have none
        verdict["helpful"] = (wanted_said + len(facts_said)) / full_points
    if instruction.unknowable:
        verdict["helpful"] = float(verdict["refused"] and not verdict["invented"])
    verdict["off"] = min(verdict["off"], 2)
    return verdict


def gold(world: World, instruction: Instruction, response: str, ended: bool = True) -> float:
    """The gold score of an answer: what a perfectly careful labeler thinks of it. -5.5 to 2."""
    verdict = judge(world, instruction, response, ended)
    return sum(RUBRIC[part] * value for part, value in verdict.items())


def add_noise(utilities: list[float], rng: random.Random) -> list[float]:
    """Add Gumbel noise of scale LABEL_NOISE; equal utilities get the same noise and stay equal."""
    noisy = {}
    for utility in utilities:
        gumbel = -math.log(-math.log(rng.random()))
        noisy[utility] = utility + LABEL_NOISE * gumbel
    return [noisy[utility] for utility in utilities]


def label(world: World, instruction: Instruction, responses: list[tuple[str, bool]],
          rng: random.Random) -> Comparison:
    """One labeler ranks answers by gold score plus noise. Equally good answers are ties."""
    golds = [gold(world, instruction, text, ended) for text, ended in responses]
    return compare(instruction.messages, responses, add_noise(golds, rng))


# ----------------------------------------------------------------------------------
# 6. Your own data: load_text, load_demonstrations, load_comparisons
#
# A first reader may stop here: section 6 reads files of users, section 7 is what any program has,
# errors, files, locks and options.


def open_text(path: Path) -> typing.TextIO:
    """A plain or gzipped UTF-8 file, opened for reading; a byte order mark is skipped."""
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    return opener(path, "rt", encoding="utf-8-sig")


def read_records(path: Path) -> Iterator[tuple[str, dict]]:
    """(FILE:LINE, record) of JSON lines, (FILE:NUMBER, record) of a JSON list."""
    place = str(path)  # until the first record
    with open_text(path) as file, reading(path, "UTF-8 text"):
        try:
            is_list = file.read(1000).lstrip().startswith("[")
            file.seek(0)
            for number, item in enumerate(json.load(file) if is_list else file, start=1):
                place = f"{path}:{number}"
                if not is_list and not item.strip():
                    continue  # a blank line
                record = item if is_list else json.loads(item)
                if not isinstance(record, dict):
                    raise UserError(f"{place}: expected an object, not {record!r:.40}")
                yield place, record
        except (ValueError, RecursionError) as error:
            raise UserError(f"{place}: neither a JSON list nor JSON lines ({error})") from None


def load_text(source: str | Path) -> Iterator[str]:
    """Documents of a file, or of all files in a folder except hidden ones. JSON and JSON lines hold
    them under "text"; in any other file <|endoftext|> separates them."""
    is_empty = True
    for file in files_in(Path(source)):
        is_json = file.name.lower().removesuffix(".gz").endswith((".json", ".jsonl"))
        for document in texts_of_records(file) if is_json else texts_between_marks(file):
            if document.strip():
                is_empty = False
                yield document
    if is_empty:
        raise UserError(f"{source} holds no text")


def documents_of(source: str, seed: int) -> Iterator[str]:
    """The documents of the embedded world ("world") or of a file or folder."""
    return web(World(seed), WORLD_DOCUMENTS) if source == "world" else load_text(source)


def files_in(path: Path) -> list[Path]:
    """All files in a folder but hidden ones; any other path stands for itself."""
    if not path.is_dir():
        return [path]
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    return [file for file in files if "/." not in f"/{file.relative_to(path).as_posix()}"]


def texts_of_records(path: Path) -> Iterator[str]:
    """The "text" of each record."""
    for place, record in read_records(path):
        if not isinstance(record.get("text"), str):
            raise UserError(f'{place}: no text under "text"; its keys: {", ".join(record)}')
        yield record["text"].replace("\r\n", "\n")


def texts_between_marks(path: Path) -> Iterator[str]:
    """The texts between <|endoftext|> marks. One of more than one or two million characters comes
    in pieces, cut anywhere, so that memory stays flat; each of them then counts as a document."""
    length = 1 << 20  # characters
    rest = ""
    with open_text(path) as file, reading(path, "UTF-8 text"):
        while block := file.read(length):
            if "\0" in block:
                raise UserError(f"{path} holds zero bytes: it is not UTF-8 text")
            *documents, rest = (rest + block).split("<|endoftext|>")
            yield from documents
            if len(rest) > length:
                cut = len(rest) - len("<|endoftext|>")  # behind it a mark may begin
                yield rest[:cut]
                rest = rest[cut:]
    yield rest


# The names that published data sets give to a question and its answers. Each of these is text, a
# list of turns ({"role", "content"} or {"from", "value"}) or a dialogue of Anthropic's HH
# ("\n\nHuman: ... \n\nAssistant: ..."). An answer may repeat the dialogue before it.
QUESTION = ("prompt", "instruction", "question", "messages", "conversations")
EXTRA = ("input", "context")  # text that is added to the question
ANSWER = ("response", "completion", "output", "answer")
ANSWERS = ("responses", "completions")  # or two: "chosen" and "rejected"
RANKS = ("ranks", "scores", "ratings")  # of ANSWERS: the smallest rank or largest score is best
CONVERSATION = ("messages", "conversations")  # where there is no answer: it ends with one
ROLES = {"system": "system", "developer": "system",
         "user": "user", "human": "user", "Human": "user",
         "assistant": "assistant", "gpt": "assistant", "Assistant": "assistant"}


def load_demonstrations(path: str | Path) -> list[list[dict]]:
    """Conversations that end with the assistant's turn; of several answers the best."""
    return [comparison.best() for comparison in load_comparisons(path, least=1)]


def load_comparisons(path: str | Path, least: int = 2) -> list[Comparison]:
    """Ranked answers to each question, at least `least` of them. Records that cannot be used
    are counted by reason. UserError for a record of no known shape, and if none can be used."""
    comparisons, skipped = [], Counter()
    for place, record in read_records(Path(path)):
        try:
            comparison = parse_record(place, record)
            if len(comparison.responses) < least:
                raise ValueError(f"fewer than {least} answers")
            comparisons.append(comparison)
        except ValueError as reason:
            skipped[str(reason)] += 1
    summary = f"{path}: {len(comparisons)} records read, skipped: {dict(skipped)}"
    if not comparisons:
        raise UserError(summary)
    print(summary)
    return comparisons


def parse_record(place: str, record: dict) -> Comparison:
    """One record of any of the shapes above; a single answer has rank 0. ValueError says why
    one of a known shape cannot be used."""
    if record.get("history"):  # earlier exchanges, in some files of Alpaca's shape
        raise ValueError("a history, which is not read")
    parts = [find(record, QUESTION), *map(record.get, EXTRA)]
    parts = [part for part in parts if part not in (None, "")]  # text, or a list of turns
    answer, whole = find(record, ANSWER), find(record, CONVERSATION)
    answers = find(record, ANSWERS)
    utilities = find(record, RANKS)  # of the answers; the larger, the better
    pair = [record.get("chosen"), record.get("rejected")]
    if pair != [None, None]:
        answers, utilities = pair, [1, 0]
    elif answers is not None:  # several, with ranks or scores
        if not (isinstance(answers, list) and isinstance(utilities, list)
                and 0 < len(answers) == len(utilities)
                and all(isinstance(u, (int, float)) and abs(u) < math.inf for u in utilities)):
            raise ValueError("no finite rank or score for each answer")
        if record.get("ranks") is not None:
            utilities = [-rank for rank in utilities]
    elif parts and answer is not None:  # a question and its answer
        answers, utilities = [answer], [0]
    elif whole is not None:  # a conversation that ends with the answer
        parts, answers, utilities = [], [whole], [0]
    elif any(record.get(key, True) in (None, "")
             for key in (*QUESTION, *ANSWER, *ANSWERS, "chosen")):
        raise ValueError("an empty prompt or answer")
    else:
        raise UserError(f"{place}: no question with an answer under {', '.join(record)}; "
                        "data.py section 6 lists the keys that are read")

    if len(answers) == 1 and 0 in (record.get("label"), record.get("kto_tag")):  # 0 or false
        raise ValueError("labeled as a bad answer")  # data for KTO mark each as good or bad

    if all(isinstance(part, str) for part in parts):  # without any part: one empty text
        parts = ["\n\n".join(parts)]
    if len(parts) > 1:
        raise ValueError("a question, an input or a context that is not text")
    system = find(record, ("system", "system_prompt"))
    dialogues = [to_dialogue(system, parts[0], answer) for answer in answers]
    prompt = dialogues[0][:-1]
    texts = [turns[-1]["content"] for turns in dialogues]
    if any(turns[:-1] != prompt for turns in dialogues):
        raise ValueError("the dialogues differ before the last turn")
    if len(texts) > 1 and 1 in (len(set(texts)), len(set(utilities))):
        raise ValueError("all answers are the same or ranked the same")
    return compare(prompt, [(text, True) for text in texts], utilities)


def find(record: dict, keys: tuple[str, ...]) -> object:
    """The value of the first of these keys that is there and not empty."""
    return next((record[key] for key in keys if record.get(key) not in (None, "")), None)


def to_dialogue(system: object, question: object, answer: object) -> list[dict]:
    """All messages up to an answer, which may repeat those before it."""
    turns = to_turns(answer, "assistant")
    if not any(turn["role"] == "user" for turn in turns):
        turns = to_turns(question, "user") + turns
    # a system message among the turns counts more than one beside them
    if system and not any(turn["role"] == "system" for turn in turns):
        turns = to_turns(system, "system") + turns
    while turns and turns[-1]["role"] == "user":  # a question that nobody answered
        turns.pop()
    if [turn["role"] for turn in turns[-2:]] != ["user", "assistant"]:
        raise ValueError("no answer after a question")
    if not all(turn["content"] for turn in turns):
        raise ValueError("an empty prompt or answer")
    return turns


def to_turns(value: object, role: str) -> list[dict]:
    """Text of this role, an HH dialogue or a list of turns, as messages; no empty system ones."""
    if isinstance(value, str):
        text = value.replace("\r\n", "\n").strip()
        value = [{"role": role, "content": text}]
        if text.startswith("Human:"):
            text = text.removesuffix("\n\nAssistant:")  # the end of a prompt
            # \s{,9}: without a bound, long white space would take quadratic time
            parts = re.split(r"(?:^|\n\n)\s{,9}(Human|Assistant):", text)  # "", name, text ...
            pairs = zip(parts[1::2], parts[2::2])
            value = [{"role": who, "content": said} for who, said in pairs]
    turns = []
    try:
        for turn in [value] if isinstance(value, dict) else value:  # a single turn, or a list
            name = turn.get("role", turn.get("from"))
            content = turn.get("content", turn.get("value"))
            content = content.replace("\r\n", "\n").strip()
            turns.append({"role": ROLES[name], "content": content})
    except (KeyError, TypeError, AttributeError):
        raise ValueError("a turn without a known role and text") from None
    return [turn for turn in turns if turn["content"] or turn["role"] != "system"]


# ----------------------------------------------------------------------------------
# 7. Errors, files, commands: UserError, reading, atomic_write, run_folder, command_line


class UserError(Exception):
    """An error that the user can fix: `command_line` prints one line, exit code 2."""


# torchrun starts several processes and numbers them from 0; the first does all the writing.
IS_MAIN = "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["RANK"] == "0"


def is_out_of_memory(error: Exception) -> bool:
    """Python has an error of its own for this; PyTorch raises a RuntimeError."""
    return isinstance(error, MemoryError) or "allocate" in str(error)


@contextlib.contextmanager
def reading(path: str | Path, kind: str) -> Iterator[None]:
    """Turn an error while `path` is read into a UserError that names the file, unless the error
    names what is wrong already."""
    try:
        yield
    except Exception as error:
        is_clear = isinstance(error, (UserError, FileNotFoundError, PermissionError))
        if is_clear or is_out_of_memory(error):
            raise
        raise UserError(f"{path} is not {kind}, or it is damaged") from None


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[typing.BinaryIO]:
    """A file that appears whole or not at all: written beside its place, then renamed."""
    if not IS_MAIN:
        with open(os.devnull, "wb") as file:
            yield file
        return
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, content: object):
    """Write a value as JSON, see `atomic_write`."""
    with atomic_write(path) as file:
        file.write(json.dumps(content, indent=1).encode())


_locks = {}  # folder -> its open lock file; other processes stay out until this one ends


def run_folder(name: str, settings: dict, fresh: bool = False) -> Path:
    """runs/NAME, made if needed and locked against a second process.

    settings.json in it holds what the run was asked for, and size and date of each file that
    a setting names (as FILE, FILE.py:FUNCTION or a folder of files). A folder with results of
    other settings is a UserError; `fresh` first moves the old results to its subfolder .replaced,
    where they replace files of the same names.
    """
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", name):  # nothing outside of runs/
        raise UserError("the name of a run takes letters, digits, '_' and, but not in front, '.', "
                        f"'-' and '/', not {name!r}")
    if not IS_MAIN:
        return Path("runs", name)
    folder = Path("runs", name).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if folder not in _locks:
        lock = open(folder / ".lock", "w")
        with contextlib.suppress(ImportError):  # Windows has no fcntl: no lock there
            import fcntl
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"another process is at work in runs/{name}: "
                                "wait for it or choose another --name") from None
        _locks[folder] = lock

    settings = json.loads(json.dumps(settings))  # tuples become lists
    names = [value for value in settings.values() if isinstance(value, str)]
    names += [name.rpartition(":")[0] for name in names]  # FILE.py of FILE.py:FUNCTION, else ""
    files = [file for name in names if os.path.exists(name) for file in files_in(Path(name))]
    for file in files:
        settings[f"file {file}"] = [file.stat().st_size, file.stat().st_mtime]
    written = [path for path in folder.iterdir()
               if path.suffix in (".pt", ".bin", ".json", ".jsonl", ".png")]
    if fresh:
        for path, file in itertools.product(written, files):
            if path.samefile(file):
                raise UserError(f"{path} is in the folder that --fresh empties: move it, or "
                                "choose another --name")
        (folder / ".replaced").mkdir(exist_ok=True)
        for path in written:
            path.replace(folder / ".replaced" / path.name)
    elif any(path.suffix in (".pt", ".bin", ".json") and path.name != "settings.json"
             for path in written):
        with reading(folder / "settings.json", "a run's settings"):
            known = json.loads((folder / "settings.json").read_text())
            other = [key for key in {**settings, **known} if known.get(key) != settings.get(key)]
        if other:
            raise UserError(f"runs/{name} was made with other settings ({', '.join(other)}): "
                            "add --fresh to make it anew, or --name for another folder")
    write_json(folder / "settings.json", settings)
    return Path("runs", name)


def option(default: object, help: str, at_least: float = 0):
    """A dataclass field that is an option of a command; at_least bounds a number."""
    return dataclasses.field(default=default, metadata={"help": help, "at_least": at_least})


def printable(text: str) -> str:
    """The text without characters that steer the terminal or turn the direction of writing."""
    return re.sub("[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", "\ufffd", text)


def guard_terminal():
    """Make the standard streams safe: closed ones are replaced by empty ones, control characters
    are printed as U+FFFD, and of torchrun's processes only the first one prints."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed, as by <&-
            setattr(sys, name, open(os.devnull, mode))
        with contextlib.suppress(AttributeError):  # a test's stream
            getattr(sys, name).reconfigure(errors="replace")  # what it cannot show becomes "?"
    if not IS_MAIN:
        sys.stdout = open(os.devnull, "w")
    write = sys.stdout.write
    sys.stdout.write = lambda text: write(printable(text))


def command_line(commands: dict[str, Callable], default: str, argv: list[str] | None = None):
    """Run one command; without a name the `default` one.

    A command is a function whose parameters have dataclass instances as defaults. Every
    field of these is an option: `steps: int = option(100, "how long to train")` is --steps.
    Exit code 0 done, 2 an error that the user can fix (one line on stderr), 130 Ctrl-C, 141 the
    reader of our output has gone, as in `| head`.
    """
    guard_terminal()
    argv = list(sys.argv[1:] if argv is None else argv)
    is_named = argv and not argv[0].startswith("-")
    name = argv.pop(0) if is_named else default
    try:
        if name not in commands:
            raise UserError(f"no command {name!r}: choose from {', '.join(commands)}")
        parser = argparse.ArgumentParser(
            f"{Path(sys.argv[0]).name} {name}", description=commands[name].__doc__,
            epilog=f"commands: {', '.join(commands)}; without one: {default}", allow_abbrev=False)

        def wrong_option(message):
            raise UserError(f"{message} (try: {parser.prog} --help)")

        parser.error = wrong_option  # argparse would print its usage and exit
        groups = commands[name].__defaults__ or ()
        for group in groups:
            add_options(parser, group)
        values = vars(parser.parse_args(argv))
        commands[name](*[read_options(group, values) for group in groups])
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (UserError, OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not is_out_of_memory(error):
            raise  # a fault of ours
        text = str(error) or "out of memory"  # Python's own MemoryError says nothing
        print("error: " + printable(" ".join(text.split())), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted: the same command, without --fresh, goes on from what is saved (if "
              "it saves anything)", file=sys.stderr)
        sys.exit(130)


def add_options(parser: argparse.ArgumentParser, group: object):
    """An option for each field of a dataclass instance, which holds the defaults."""
    hints = typing.get_type_hints(type(group))
    for field in dataclasses.fields(group):
        hint = hints[field.name]
        default = getattr(group, field.name)
        kind = (*typing.get_args(hint), hint)[0]  # int | None -> int
        text = field.metadata["help"]
        how = {"type": kind, "metavar": kind.__name__}
        if kind is bool:
            how = {"action": argparse.BooleanOptionalAction}
        elif default is not None:
            text += f" (default: {default})"
        parser.add_argument("--" + field.name.replace("_", "-"), **how, default=default, help=text)


def read_options(group: object, values: dict) -> object:
    """The dataclass with the values from the command line; no empty text, nan or inf."""
    chosen = {}
    for field in dataclasses.fields(group):
        value, at_least = values[field.name], field.metadata["at_least"]
        is_empty = isinstance(value, str) and not value.strip()
        has_bounds = isinstance(value, (int, float))
        if is_empty or (has_bounds and not at_least <= value < 2 ** 31):  # inf, too
            bounds = f" (at least {at_least}, less than 2 ** 31)" if has_bounds else ""
            raise UserError(f"--{field.name.replace('_', '-')} must not be {value!r}{bounds}")
        chosen[field.name] = value
    return type(group)(**chosen)


def show():
    """Show documents and their tokens, and how the world's labelers answer and judge."""
    world, rng = World(), random.Random(0)
    documents = list(web(world, 4000))
    tokenizer = Tokenizer(train_bpe(documents, 1024 - len(SPECIAL_TOKENS)))
    for document in documents[:5]:
        pieces = [tokenizer.decode([token]) for token in tokenizer.encode(document)]
        print("|".join(pieces) + "\n---")
    examples = {example.use_case: example for example in instructions(world, "train", 300, 0)}
    for use_case, instruction in examples.items():
        messages = demonstrate(world, instruction, rng)
        verdict = judge(world, instruction, messages[-1]["content"])
        print(f"{use_case}: {show_mask(tokenizer, messages)}\n    {verdict}")


if __name__ == "__main__":
    command_line({"show": show}, default="show")
