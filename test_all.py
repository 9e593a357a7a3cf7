"""
test_all.py: the papers' claims and the code's contracts, as statements that can fail.

    pytest test_all.py

In the order of the papers. Each test compares with something that does not share its code: PyTorch's
autograd, float64, brute force, a closed form, tiktoken, transformers (where it is installed).
"""
import ast
import copy
import dataclasses
import gzip
import hashlib
import http.server
import importlib
import importlib.util
import itertools
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("GOMP_SPINCOUNT", "1000")    # before torch is imported, see gpt.py
import torch
import torch.nn.functional as F

import data
import gpt
import rlhf
from data import SPECIAL_TOKENS, Tokenizer, UserError, World, train_bpe
from gpt import GPT, GPTConfig

HERE = Path(__file__).parent
BYTES = {bytes([b]): b for b in range(256)}
HELLO = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello you"}]


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def world():
    return World(0)


@pytest.fixture(scope="module")
def tokenizer(world):
    return Tokenizer(train_bpe(data.web(world, 2000), 600))


def optional(package):
    """A peer to compare with. Without it the test is skipped, but not where CI should have installed it."""
    if not importlib.util.find_spec(package):
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{package} is not installed")
    return importlib.import_module(package)


def small_gpt(vocab_size=50, block_size=16, n_layer=2, n_head=2, n_embd=16, **options):
    return GPT(GPTConfig(vocab_size, block_size, n_layer, n_head, n_embd, **options))


# ---------------------------------------------------------------------------------------------- the house


@pytest.mark.parametrize("name, allowed", [("data", set()), ("gpt", {"data"}), ("rlhf", {"data", "gpt"})])
def test_imports_run_one_way(name, allowed):
    tree = ast.parse((HERE / f"{name}.py").read_text())
    modules = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    modules |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert modules & {"data", "gpt", "rlhf"} == allowed
    packages = {m.split(".")[0] for m in modules} - set(sys.stdlib_module_names) - {"data", "gpt", "rlhf"}
    optional = {"matplotlib", "safetensors"}
    assert packages <= {"numpy", "torch", "tiktoken", "regex", *optional}          # regex comes with tiktoken


@pytest.mark.parametrize("name", ["data", "gpt", "rlhf"])
def test_contents_equal_the_banners_and_name_what_exists(name):
    source = (HERE / f"{name}.py").read_text()
    contents = re.findall(r"^    (\d+\. .+?)$", ast.get_docstring(ast.parse(source), clean=False), re.M)
    banners = re.findall(r"^# (\d+\. .+?)(?:   +\[.*\])?$", source, re.M)
    assert [line.strip() for line in contents] == [line.strip() for line in banners]
    module = {"data": data, "gpt": gpt, "rlhf": rlhf}[name]
    for banner in banners:
        for named in banner.partition(": ")[2].split(", "):
            assert hasattr(module, named), f"{banner}: {named} does not exist"


def test_no_function_is_longer_than_a_screen_and_no_line_wider():
    for name in ("data", "gpt", "rlhf"):
        source = (HERE / f"{name}.py").read_text()
        assert max(map(len, source.splitlines())) <= 110
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 75, node.name


def test_the_readme_names_commands_and_options_that_exist():
    commands = {}
    for name, module in (("data", data), ("gpt", gpt), ("rlhf", rlhf)):
        source = (HERE / f"{name}.py").read_text()
        for command, settings in re.findall(r'"(\w+)": \((\w+Settings), \w+\)', source):
            commands[name, command] = {f.name for f in dataclasses.fields(getattr(module, settings))}
        commands[name, None] = commands[name, re.search(r'default="(\w+)"', source)[1]]
    readme = (HERE / "README.md").read_text()
    lines = re.findall(r"python\s(data|gpt|rlhf)\.py(?: ([a-z]\w*))?([^`|\n;]*)", readme)
    assert len(lines) >= 40
    for name, command, rest in lines:
        for option in re.findall(r"--([a-z-]+)", rest):
            assert option.replace("-", "_") in commands[name, command or None], (name, command, option)


# --------------------------------------------------------------------------- byte-pair encoding [GPT-2 §2.2]


def naive_bpe(text, vocab_size):
    """Recount every pair before every merge; the highest count wins, ties go to the smallest ids."""
    import regex
    chunks = [list(chunk.encode()) for chunk in regex.findall(data.SPLIT_PATTERN, text)]
    vocabulary = [bytes([b]) for b in range(256)]
    while len(vocabulary) < vocab_size:
        counts = Counter(pair for chunk in chunks for pair in zip(chunk, chunk[1:]))
        counts = {p: n for p, n in counts.items() if vocabulary[p[0]] + vocabulary[p[1]] not in vocabulary}
        if not counts:
            break
        pair = min(counts, key=lambda p: (-counts[p], p))
        vocabulary.append(vocabulary[pair[0]] + vocabulary[pair[1]])
        for chunk in chunks:
            i = 0
            while i < len(chunk) - 1:
                if (chunk[i], chunk[i + 1]) == pair:
                    chunk[i:i + 2] = [len(vocabulary) - 1]
                i += 1
    return {token: i for i, token in enumerate(vocabulary)}


@pytest.mark.parametrize("seed", range(12))
def test_bpe_equals_a_naive_trainer(seed):
    rng = random.Random(seed)
    alphabet = ["ab ", "aab", "abcde  \n", "aé日 1!'s"][seed % 4]
    text = "".join(rng.choice(alphabet) for _ in range(data.MAX_CHUNK))
    assert train_bpe(text, 300) == naive_bpe(text, 300)


def test_bpe_learns_the_textbook_example():
    # "aaabdaaabac": aa is most frequent, then a + aa's neighbour ab or aab, as Wikipedia derives it by hand
    ranks = train_bpe("aaabdaaabac", 259)
    assert [token for token, i in ranks.items() if i >= 256] == [b"aa", b"ab", b"aaab"]


NASTY = ["", " ", "\r\n\t  x  ", "I'LL I'll", "  日本語 🙂 naïve", "\x00\x7f", "<|endoftext|><|end|>",
         "a" * 3000, "1234 + 5"]


@pytest.mark.parametrize("text", NASTY)
def test_tokens_round_trip(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode_bytes(tokenizer.encode(text)) == text.encode()


def test_any_bytes_round_trip_and_all_256_are_tokens(tokenizer):
    assert all(bytes([b]) in tokenizer.ranks for b in range(256))
    assert tokenizer.decode_bytes(range(256)) == bytes(range(256))


def test_text_never_becomes_a_control_token(tokenizer):
    text = "".join(SPECIAL_TOKENS) * 3 + "<|user|>hi<|end|><|assistant|>"
    assert max(tokenizer.encode(text)) < len(tokenizer.ranks)
    ids, _ = data.render_conversation(tokenizer, [{"role": "user", "content": text}])
    assert sum(i >= len(tokenizer.ranks) for i in ids) == 3      # <|endoftext|> <|user|> … <|end|>, no more
    assert sorted(tokenizer.special.values()) == list(range(len(tokenizer.ranks), tokenizer.vocab_size))


def test_a_flood_of_spaces_does_not_break_the_regex(tokenizer):
    text = "a" + " " * 1_000_000 + "b"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_saved_tokenizers_load(tokenizer):
    tokenizer.save("t.json")
    loaded = Tokenizer.load("t.json")
    assert loaded.ranks == tokenizer.ranks and loaded.special == tokenizer.special
    for bad in ("", "{}", '{"tokens": 3}', '{"tokens": ["a"]}', "\xff\x00"):
        Path("bad.json").write_text(bad)
        with pytest.raises(UserError):
            Tokenizer.load("bad.json")


def test_bpe_survives_a_word_of_a_million_letters():
    ranks = train_bpe("a" * 1_000_000, 300)
    assert (Tokenizer(ranks).decode(Tokenizer(ranks).encode("aaaaa")) == "aaaaa"
            and b"a" * data.MAX_CHUNK in ranks)


def test_bpe_does_not_need_a_long_text():
    assert train_bpe("", 300) == BYTES
    with pytest.raises(UserError):
        train_bpe("text", 255)


def test_gpt2_tokenizer_offline_is_a_clear_message(monkeypatch, tmp_path):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "empty"))
    import requests
    monkeypatch.setattr(requests, "get", lambda *a, **k: (_ for _ in ()).throw(
        requests.ConnectionError("no network")))
    import tiktoken.registry
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    with pytest.raises(UserError, match="GPT-2's vocabulary"):
        Tokenizer.gpt2()


def test_gpt2_tokenizer_from_its_files():
    try:
        tokenizer = Tokenizer.gpt2()
    except UserError as error:
        pytest.skip(str(error))
    assert tokenizer.encode("Hello world") == [15496, 995] and tokenizer.eot == 50256


def test_show_merges_ends_in_the_encoding(tokenizer):
    text = "Mia lives in Oslo."
    last = data.show_merges(tokenizer, text).splitlines()[-1]
    assert last == ("|".join(tokenizer.decode([i]) for i in tokenizer.encode(text))
                    + f"   {len(tokenizer.encode(text))} tokens")


# ------------------------------------------------------------------------------ token stream [GPT-3 App. B]


def test_stream_packs_documents_and_splits_by_document():
    tokenizer = Tokenizer(BYTES)
    documents = [f"document {i}" for i in range(40)]
    counts = data.write_stream(documents, tokenizer, "s")
    train, val = (data.open_stream(f"s/{split}.bin", counts["dtype"]) for split in ("train", "val"))
    assert tokenizer.decode(val) == "".join(d + "<|endoftext|>" for d in documents[9::10])
    assert (len(train) + len(val) == sum(len(d) + 1 for d in documents)
            == counts["train_tokens"] + counts["val_tokens"])


def test_one_long_text_keeps_its_last_tenth_for_validation():
    text = "".join(random.Random(0).choice("ab \n") for _ in range(5000))
    counts = data.write_stream([text], Tokenizer(BYTES), "s")
    train, val = (data.open_stream(f"s/{split}.bin", counts["dtype"]) for split in ("train", "val"))
    assert len(val) == 500 and Tokenizer(BYTES).decode([*train, *val]) == text + "<|endoftext|>"


def test_text_is_read_in_pieces_and_nothing_is_lost():
    text = "word " * 900_000                                        # 4.5 MB without a line end
    Path("long.txt").write_text(text)
    pieces = list(data.load_text("long.txt"))
    assert len(pieces) > 2 and "".join(pieces) == text and max(map(len, pieces)) <= 2 * data.PIECE


def test_batches_are_windows_and_resume_exactly():
    stream = np.arange(1000, dtype=np.uint16)
    batches = data.Batches(stream, 4, 8, seed=0)
    x, y = batches.next()
    assert (y == x + 1).all() and (x[:, 1:] == x[:, :-1] + 1).all() and x.shape == (4, 8)
    state = batches.state
    expected = [batches.next()[0] for _ in range(3)]
    other = data.Batches(stream, 4, 8, seed=99)
    other.state = state
    assert all((other.next()[0] == e).all() for e in expected)
    with pytest.raises(UserError, match="too few|only"):
        data.Batches(stream[:8], 4, 8, seed=0)


# ------------------------------------------------------------------------------------------- conversations


def test_mask_is_one_exactly_on_what_the_assistant_writes(tokenizer):
    messages = [{"role": "system", "content": "be kind"}, *HELLO, {"role": "user", "content": "bye"},
                {"role": "assistant", "content": "see you"}]
    ids, mask = data.render_conversation(tokenizer, messages)
    learned = tokenizer.decode(i for i, m in zip(ids, mask) if m)
    assert learned == " hello you<|end|> see you<|end|>"
    assert tokenizer.decode(ids) == (
        "<|endoftext|><|system|> be kind<|end|><|user|> hi<|end|><|assistant|> hello you<|end|>"
        "<|user|> bye<|end|><|assistant|> see you<|end|>")
    reply, _ = data.render_conversation(tokenizer, messages[:2], reply=True)
    assert tokenizer.decode(reply).endswith(" hi<|end|><|assistant|>")
    for bad in ({"role": "root", "content": "x"}, {"role": "user"}, {"role": "user", "content": 3}):
        with pytest.raises(UserError):
            data.render_conversation(tokenizer, [bad])


@pytest.mark.parametrize("record, question, answer", [
    ({"messages": HELLO}, "hi", "hello you"),
    ({"prompt": "hi", "response": "hello you"}, "hi", "hello you"),
    ({"instruction": "add", "input": "1 2", "output": "3"}, "add\n\n1 2", "3"),
    ({"instruction": "add", "instances": [{"input": "", "output": "3"}]}, "add", "3")])
def test_demonstrations_in_every_usual_shape(record, question, answer):
    Path("d.jsonl").write_text(json.dumps(record) + "\n\n")
    with gzip.open("d.json.gz", "wt") as file:
        json.dump([record], file)
    for path in ("d.jsonl", "d.json.gz"):
        [messages] = data.load_demonstrations(path)
        assert [m["content"] for m in messages] == [question, answer]


@pytest.mark.parametrize("record", [
    {"chosen": "\n\nHuman: hi\n\nAssistant: good", "rejected": "\n\nHuman: hi\n\nAssistant: bad"},
    {"prompt": "hi", "chosen": "good", "rejected": "bad"},
    {"prompt": [{"role": "user", "content": "hi"}], "responses": ["good", "bad"]},
    {"messages": [{"role": "user", "content": "hi"}], "responses": ["bad", "good"], "ranks": [1, 0]}])
def test_comparisons_in_every_usual_shape(record):
    Path("c.jsonl").write_text(json.dumps(record))
    [c] = data.load_comparisons("c.jsonl")
    assert c.messages == [{"role": "user", "content": "hi"}]
    assert [r for _, r in sorted(zip(c.ranks, c.responses))] == ["good", "bad"]


def test_comparisons_of_different_prompts_are_skipped(capsys):
    pair = {"chosen": "\n\nHuman: hi\n\nAssistant: a", "rejected": "\n\nHuman: ho\n\nAssistant: b"}
    good = {"chosen": "\n\nHuman: hi\n\nAssistant: a", "rejected": "\n\nHuman: hi\n\nAssistant: b"}
    Path("c.jsonl").write_text(json.dumps(pair) + "\n" + json.dumps(good))
    assert len(data.load_comparisons("c.jsonl")) == 1
    assert "1 skipped" in capsys.readouterr().out


@pytest.mark.parametrize("content, place", [
    ('{"prompt": "x"}', ":1"), ('{"a": 1', ":1"), ("[1, 2]", ":1"), ("", "no "),
    ('\n{"messages": [{"role": "king", "content": "x"}]}', ":2")])
def test_bad_records_name_their_line(content, place):
    Path("bad.jsonl").write_text(content)
    for load in (data.load_demonstrations, data.load_comparisons):
        with pytest.raises(UserError, match=place):
            load("bad.jsonl")


# ----------------------------------------------------------------------------------------------- the world


def test_held_out_means_held_out(world):
    train = data.instructions(world, "train", 4000, seed=0)
    test = data.instructions(world, "test", 480, seed=1, distinct=True)
    assert len({str(i.messages) for i in test}) == 480
    assert not {str(i.messages) for i in train} & {str(i.messages) for i in test}
    asked = {i.facts[:2] for i in test if i.facts and i.facts[1]}
    documents = list(data.web(world, 6000))
    questions = {q.format(n=n): (n, topic) for topic, (_, _, qs) in data.TOPICS.items() for q in qs
                 for n in world.people}
    asked_in_web = {questions[line[3:]] for d in documents for line in d.splitlines()
                    if line[3:] in questions}
    assert len(asked_in_web) > 150 and not asked & asked_in_web        # told in stories, asked for nowhere
    told = {world.meaning[s][:2] for d in documents for s in data.split_sentences(d) if s in world.meaning}
    assert asked <= told


def test_demonstrations_are_good_and_use_cases_are_those_of_table_1(world):
    prompts, rng = data.instructions(world, "train", 4000, seed=0), random.Random(0)
    golds = [data.gold(world, p, data.demonstrate(world, p, rng)[-1]["content"]) for p in prompts]
    assert min(golds) > 0 and np.mean(golds) > 1.5
    shares = Counter(p.use_case for p in prompts)
    for use_case, share in data.USE_CASES.items():
        assert abs(shares[use_case] / 4000 - share) < 4.5 * math.sqrt(share / 4000)      # 4.5 sigma


def test_the_labeler_reads_what_the_world_writes(world):
    n = world.people[0]
    ask = data.Instruction("open qa", HELLO[:1], facts=(n, "home", 1))
    right, wrong = (world.facts[n, "home"],
                    next(v for v in data.TOPICS["home"][0] if v != world.facts[n, "home"]))
    score = lambda text, ended=True: data.gold(world, ask, text, ended)
    assert score(f"{n} lives in {right}.") == 2.0
    assert score(f"{right}.") == 1.0
    assert score("I do not know.") == 0.0
    assert score(f"{n} lives in {wrong}.") == score(f"{wrong}.") == -2.0
    assert score(f"{n} lives in {right}. Nobody cares, you idiot.") == 0.0
    assert score(f"{n} lives in {right}. {n}'s home is in {right}.") == 1.5       # said twice
    assert score(f"{n} lives in {right}. Happy to help.") == 2.0
    assert score("Lives lives in in.") == -0.5
    assert score(f"{n} lives in {right}.", ended=False) == 1.5
    unknown = data.Instruction("open qa", HELLO[:1], unknowable=True)
    assert data.gold(world, unknown, "I do not know.") == 2.0
    assert data.gold(world, unknown, f"{world.strangers[0]} lives in {right}.") == -2.0
    items = data.Instruction("brainstorming", HELLO[:1], items=(("red", "blue", "gold"), 2))
    assert [data.gold(world, items, t)
            for t in ("red and blue.", "red and red.", "red.", "red, blue and gold.")] == [2, 0, 1, 0]


def test_a_world_has_only_so_many_different_prompts(world, monkeypatch):
    monkeypatch.setattr(data, "USE_CASES", {"other": 1.0})
    assert len(data.instructions(world, "test", 5, seed=0, distinct=True)) == 5        # of 25 sums a fifth
    with pytest.raises(UserError, match="fewer than 6"):
        data.instructions(world, "test", 6, seed=0, distinct=True)


def test_saying_it_again_does_not_help(world):
    colors = data.Instruction("brainstorming", HELLO[:1], items=(("red", "blue", "green"), 2))
    once, twice = (data.gold(world, colors, " ".join(["red and blue."] * n)) for n in (1, 2))
    assert once == 2.0 and twice < once


def test_ranks_follow_the_rubric_and_equal_answers_tie(world):
    n = world.people[0]
    ask = data.Instruction("open qa", HELLO[:1], facts=(n, "home", 1))
    good, rude = f"{n} lives in {world.facts[n, 'home']}.", data.RUDE[0]
    answers = [(rude, True), (good, True), (good, True), ("I do not know.", True)]
    assert data.label(world, ask, answers, random.Random(0), noise=0.0).ranks == [2, 0, 0, 1]


# -------------------------------------------------------------------------------------------- the model


def test_parameter_counts_are_those_of_the_released_models():
    counts = {"gpt1": 116_534_784, "gpt2": 124_439_808, "gpt2-medium": 354_823_168,
              "gpt2-large": 774_030_080, "gpt2-xl": 1_557_611_200}
    with torch.device("meta"):
        for name, count in counts.items():
            assert GPT(gpt.PRESETS[name]).num_params() == count
        for name, billions in (("small", .125), ("medium", .355), ("large", .76), ("xl", 1.3), ("2.7b", 2.7),
                               ("6.7b", 6.7), ("13b", 13), ("175b", 175)):         # as the paper rounds them
            assert GPT(gpt.PRESETS[f"gpt3-{name}"]).num_params() == pytest.approx(billions * 1e9, rel=0.02)


def test_gpt1_leaves_a_normalized_stream_and_has_no_last_norm():
    model = GPT(GPTConfig(50, 16, 3, 2, 8, post_norm=True))
    states = model.hidden(torch.randint(50, (2, 9)))
    assert torch.allclose(states.mean(-1), torch.zeros(2, 9), atol=1e-5)
    assert torch.allclose(states.std(-1, unbiased=False), torch.ones(2, 9), atol=1e-2)
    assert not any(name.startswith("ln_f") for name, _ in model.named_parameters())


def test_every_other_layer_of_gpt3_sees_only_its_band():
    """Dense and banded layers take turns. If all four were banded, a state would reach back 4·2 positions."""
    model = GPT(GPTConfig(50, 32, 4, 2, 8, window=3))
    assert [block.attn.window for block in model.h] == [None, 3, None, 3]
    for block in model.h:
        block.attn.window = 3
    x = model.wte(torch.randint(50, (1, 20))).detach().requires_grad_()
    y = x
    for block in model.h:
        y = block(y)
    y[0, 15].sum().backward()
    seen = x.grad[0].abs().sum(-1).nonzero().flatten().tolist()
    assert seen == list(range(15 - 4 * 2, 16))                            # k (w - 1) + 1 positions


def test_initialization_as_published():
    model = small_gpt(n_layer=8, n_embd=128, vocab_size=1000, block_size=256)
    near = lambda p, std: abs(p.std().item() / std - 1) < 0.05
    assert near(model.wte.weight, 0.02) and near(model.wpe.weight, 0.01)
    for block in model.h:
        assert near(block.attn.c_attn.weight, 0.02) and near(block.mlp.c_fc.weight, 0.02)
        # 4 = sqrt(2*8)
        assert near(block.attn.c_proj.weight, 0.02 / 4) and near(block.mlp.c_proj.weight, 0.02 / 4)
        assert not block.mlp.c_fc.bias.any()
    idx = torch.randint(1000, (4, 64))
    assert abs(model(idx, idx.roll(-1, 1))[1].item() - math.log(1000)) < 0.1


def test_gelu_is_the_tanh_form():
    x = torch.linspace(-4, 4, 101, dtype=torch.float64)
    mlp = gpt.MLP(GPTConfig(n_embd=1)).double()
    with torch.no_grad():
        for layer, weights in ((mlp.c_fc, [[1.0]] + [[0.0]] * 3), (mlp.c_proj, [[1.0, 0, 0, 0]])):
            layer.weight.copy_(torch.tensor(weights))
            layer.bias.zero_()
    expected = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))
    assert torch.allclose(mlp(x[:, None])[:, 0], expected, atol=1e-12)


AWKWARD = [(1, 1, 1, 1), (1, 2, 3, 2), (2, 1, 63, 4), (1, 1, 64, 3), (1, 2, 65, 2), (1, 1, 130, 5)]


@pytest.mark.parametrize("shape", AWKWARD)
@pytest.mark.parametrize("window", [None, 1, 2, 7, 64, 65, 1000])
def test_fused_attention_equals_the_equation(shape, window):
    q, k, v, grad = (torch.randn(shape, dtype=torch.float64) for _ in range(4))
    results = []
    for function in (gpt.attention, gpt.fused_attention):
        inputs = [x.clone().requires_grad_() for x in (q, k, v)]
        out = function(*inputs, window)
        results.append([out, *torch.autograd.grad(out, inputs, grad)])
    for expected, ours in zip(*results):
        assert torch.allclose(expected, ours, atol=1e-12)


@pytest.mark.parametrize("window", [None, 5, 520])
def test_fused_attention_of_many_heads_is_computed_in_groups(monkeypatch, window):
    monkeypatch.setattr(gpt, "TILE", 2 * 128 * 600)      # two of three heads fit, blocks of 64 or 128
    test_fused_attention_equals_the_equation((1, 3, 600, 2), window)


def test_fused_attention_in_bfloat16_rounds_only_what_it_multiplies():
    q, k, v, grad = (torch.randn(2, 3, 200, 16).bfloat16().float() for _ in range(4))
    q, k = 4 * q, 4 * k                                                   # hot scores forgive no rounding
    results = []
    for function, dtype in ((gpt.attention, torch.float32), (gpt.fused_attention, torch.bfloat16)):
        inputs = [x.to(dtype).requires_grad_() for x in (q, k, v)]
        out = function(*inputs)
        results.append([out, *torch.autograd.grad(out, inputs, grad.to(dtype))])
    for expected, ours in zip(*results):
        assert ours.dtype == torch.bfloat16
        assert (expected - ours).norm() < 0.01 * expected.norm()          # bfloat16 has 8 bits: 2^-8 = 0.004


@pytest.mark.parametrize("T, window", [(5, None), (66, None), (9, 3), (70, 5)])
def test_fused_attention_gradients_by_finite_differences(T, window):
    inputs = [torch.randn(1, 1, T, 2, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(lambda *x: gpt.fused_attention(*x, window), inputs)


def test_fused_attention_equals_pytorchs_in_float32_and_takes_any_layout():
    q, k, v = (torch.randn(2, 100, 3, 8).transpose(1, 2) for _ in range(3))       # not contiguous
    assert torch.allclose(gpt.fused_attention(q, k, v),
                          F.scaled_dot_product_attention(q, k, v, is_causal=True), atol=1e-5)


@pytest.mark.parametrize("window", [None, 9])
def test_attention_never_sees_the_future_nor_past_the_window(window):
    # scores in the thousands: a finite mask would leak here
    q, k, v = (50 * torch.randn(1, 2, 100, 4) for _ in range(3))
    before = gpt.fused_attention(q, k, v, window)
    t = 70
    k[:, :, t], v[:, :, t] = 100.0, -100.0
    after = gpt.fused_attention(q, k, v, window)
    changed = (before != after).any(dim=-1)[0].any(dim=0).nonzero().flatten().tolist()
    assert min(changed) >= t and (window is None or max(changed) < t + window)
    assert torch.isfinite(after).all()


def test_attention_memory_grows_like_T():
    """The largest buffer of forward and backward pass: far from T x T, and in proportion to T."""
    def largest(T):
        q, k, v = (torch.randn(1, 1, T, 8, requires_grad=True) for _ in range(3))
        sizes = [0]

        class Watch(torch.utils._python_dispatch.TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                out = func(*args, **(kwargs or {}))
                sizes.extend(x.numel() for x in (out if isinstance(out, (tuple, list)) else [out])
                             if isinstance(x, torch.Tensor))
                return out

        with Watch():
            gpt.fused_attention(q, k, v).sum().backward()
        return max(sizes)

    assert 0 < largest(1024) <= 1024 * 1024 // 4
    assert largest(4096) <= 4.2 * largest(1024)


def test_changing_a_token_leaves_earlier_logits_alone():
    model = small_gpt()
    idx = torch.randint(50, (2, 16))
    other = idx.clone()
    other[:, 9] = (other[:, 9] + 1) % 50
    a, b = model(idx)[0], model(other)[0]
    assert torch.equal(a[:, :9], b[:, :9]) and not torch.equal(a[:, 9], b[:, 9])


def peer(form, dtype=torch.float32, vocab_size=50, n_positions=16, n_layer=3, n_head=2, n_embd=16):
    """transformers' GPT-2 or OpenAI-GPT with random weights that are large enough to show every mistake."""
    transformers = optional("transformers")
    shape = dict(vocab_size=vocab_size, n_positions=n_positions, n_embd=n_embd, n_layer=n_layer,
                 n_head=n_head, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=0, eos_token_id=0)
    theirs = (transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape)) if form == "gpt2" else
              transformers.OpenAIGPTLMHeadModel(transformers.OpenAIGPTConfig(**shape)))
    for p in theirs.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return theirs.to(dtype).eval()


def from_peer(theirs):
    """Through the files, as a reader would."""
    theirs.save_pretrained("peer")
    shutil.copy(theirs_vocabulary(theirs.config.model_type), "peer/vocab.json")
    Path("peer/merges.txt").write_text("#version: 0.2\n")
    return gpt.load_pretrained("peer")[0].to(next(theirs.parameters()).dtype).train()


def theirs_vocabulary(model_type):
    tokens = list(data.printable_bytes()) if model_type == "gpt2" else ["<unk>", "a", "a</w>"]
    Path("vocabulary.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    return "vocabulary.json"


@pytest.mark.parametrize("form", ["gpt2", "openai-gpt"])
@pytest.mark.parametrize("shape", [{}, {"n_layer": 1, "n_head": 4, "n_embd": 24},
                                   {"vocab_size": 131, "n_head": 1}])
@pytest.mark.parametrize("dtype, atol", [(torch.float32, 1e-4), (torch.float64, 1e-8)])
def test_logits_and_gradients_equal_transformers(form, shape, dtype, atol, monkeypatch):
    theirs = peer(form, dtype, **shape)
    ours = from_peer(theirs)
    idx = torch.randint(50, (3, 13))
    targets = idx.roll(-1, 1)
    targets[1, 6:] = -1                                                   # a short row, padded on the right
    mask = torch.ones_like(idx)
    mask[1, 7:] = 0
    expected = theirs(idx, attention_mask=mask).logits
    F.cross_entropy(expected.flatten(0, 1), targets.flatten(), ignore_index=-1).backward()
    gradients = {gpt.RENAMED.get(n := name.removeprefix("transformer."), n): p.grad
                 for name, p in theirs.named_parameters()}
    for attention in (gpt.fused_attention, gpt.attention):                # our fused path, and the equation
        monkeypatch.setattr(gpt, "fused_attention", attention)
        ours.zero_grad()
        logits, loss = ours(idx, targets)
        assert torch.allclose(logits[mask > 0], expected[mask > 0], atol=atol)
        loss.backward()
        for name, p in ours.named_parameters():
            theirs_grad = gradients[name].t() if name.endswith(gpt.TRANSPOSED) else gradients[name]
            assert torch.allclose(p.grad, theirs_grad, atol=atol), name


@pytest.mark.parametrize("form", ["gpt2", "openai-gpt"])
def test_greedy_generation_equals_transformers(form):
    theirs = peer(form, n_positions=64)
    ours, idx = from_peer(theirs), torch.randint(50, (3, 7))
    theirs.generation_config.eos_token_id = None                          # no stopping
    expected = theirs.generate(idx, max_new_tokens=40, do_sample=False, pad_token_id=0,
                               attention_mask=torch.ones_like(idx))
    assert torch.equal(gpt.generate(ours, idx, 40, temperature=0), expected[:, 7:])


@pytest.mark.parametrize("beams", [1, 2, 5])
def test_beam_search_equals_transformers(beams):
    theirs = peer("gpt2", n_positions=32)
    ours, idx = from_peer(theirs).eval(), torch.randint(50, (7,))
    theirs.generation_config.eos_token_id = None
    expected = theirs.generate(idx[None], max_new_tokens=12, do_sample=False, num_beams=beams, pad_token_id=0)
    assert gpt.beam_search(ours, idx, 12, beams) == expected[0, 7:].tolist()


def test_a_beam_as_wide_as_everything_is_exhaustive_search():
    model, idx, alpha = small_gpt(4, 16).eval(), torch.tensor([1, 3]), 0.6
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.5)
    best = {}
    for n in (1, 2, 3, 4):
        for ids in itertools.product(range(4), repeat=n):                 # 0 ends a text, and only its end
            if 0 not in ids[:-1] and (n == 4 or ids[-1] == 0):
                log_p = model(torch.tensor([[*idx.tolist(), *ids]]))[0][0].log_softmax(-1)
                score = sum(log_p[1 + t, token].item() for t, token in enumerate(ids))
                best[score / ((5 + n) / 6) ** alpha] = list(ids)
    assert gpt.beam_search(model, idx, 4, beams=4 ** 4, alpha=alpha, stop_token=0) == best[max(best)]
    greedy = gpt.generate(model, idx[None], 4, temperature=0)[0].tolist()
    assert gpt.beam_search(model, idx, 4, beams=1) == greedy


def test_an_exported_model_says_the_same_in_transformers(tokenizer):
    transformers = optional("transformers")
    model = small_gpt(tokenizer.vocab_size, 64).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    gpt.export_pretrained(model, tokenizer, "ours")
    theirs = transformers.AutoModelForCausalLM.from_pretrained("ours")
    their_tokenizer = transformers.AutoTokenizer.from_pretrained("ours")
    for text in ("Mia lives in Oslo. What's 1234 + 5?", "  two  spaces\n\nü 🙂 中文\t", "I'LL, I'll", ""):
        assert their_tokenizer(text)["input_ids"] == tokenizer.encode(text)
        assert their_tokenizer.decode(tokenizer.encode(text), clean_up_tokenization_spaces=False) == text
    assert their_tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(tokenizer.special.values())
    idx = torch.tensor([tokenizer.encode("Mia lives in")])
    theirs.generation_config.eos_token_id = None
    expected = theirs.generate(idx, max_new_tokens=30, do_sample=False, pad_token_id=0)[0, idx.size(1):]
    assert torch.equal(gpt.generate(model, idx, 30, temperature=0)[0], expected)
    again, same_tokenizer = gpt.load_pretrained("ours")                   # and back, bit for bit
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters()))
    assert same_tokenizer.ranks == tokenizer.ranks and again.config == model.config


def test_gpt1_tokenizer_equals_transformers():
    transformers = optional("transformers")
    letters = "abcdefghijklmnopqrstuvwxyz.,!?'-0123456789"
    merges = [("t", "h"), ("th", "e</w>"), ("a", "n"), ("an", "d</w>"), ("i", "n"), ("in", "g</w>"),
              ("e", "r</w>")]
    tokens = ["<unk>", *letters, *(c + "</w>" for c in letters), *(a + b for a, b in merges)]
    Path("vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    Path("merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    theirs = transformers.OpenAIGPTTokenizer.from_pretrained(".")
    ours = data.GPT1Tokenizer.from_huggingface(Path("."))
    for text in ("The singer and the king, singing!", "Café naïve", "it's 3.5 - or\t4\n?", "", "ü中 x",
                 "a-b...c"):
        assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"], text
    assert ours.decode(ours.encode("The King!")) == "the king !"


class Hub(http.server.BaseHTTPRequestHandler):
    """Files from memory, also their rest. breaks: after how many bytes it breaks off, once."""
    files, breaks, asked = {}, {}, []

    def do_GET(self):
        self.asked.append((self.path, self.headers["Range"]))
        content = self.files.get(self.path)
        start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        code = 404 if content is None else 416 if start >= len(content) else 206 if start else 200
        self.send_response(code)
        rest = content[start:] if code < 300 else b""
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[:self.breaks.pop(self.path, None)])

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Hub.files, Hub.breaks, Hub.asked = {}, {}, []
    monkeypatch.setenv("PAPERGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield os.environ["HF_ENDPOINT"]
    server.shutdown()
    server.server_close()


def test_a_download_goes_on_where_it_broke_off_and_is_checked(hub):
    content = os.urandom(100_000)
    right = hashlib.sha256(content).hexdigest()
    Hub.files["/x"], Hub.breaks["/x"] = content, 30_000
    with pytest.raises(UserError, match="30,000 of 100,000"):
        data.download(f"{hub}/x", Path("x"), right)
    assert not Path("x").exists()
    assert data.download(f"{hub}/x", Path("x"), right).read_bytes() == content
    assert Hub.asked == [("/x", None), ("/x", "bytes=30000-")]
    data.download(f"{hub}/x", Path("x"), right)
    assert len(Hub.asked) == 2                                                # fetched once
    with pytest.raises(UserError, match="checksum"):
        data.download(f"{hub}/x", Path("y"), "0" * 64)
    assert not Path("y").exists() and not Path("y.part").exists()
    Path("z.part").write_bytes(content + b"more")                              # a rest of something else
    assert data.download(f"{hub}/x", Path("z"), right).read_bytes() == content
    with pytest.raises(UserError, match="404"):
        data.download(f"{hub}/missing")
    for url in ("http://127.0.0.1:9/x", "http://no host/x", "http://[::1"):
        with pytest.raises(UserError, match="could not download"):
            data.download(url)


def test_released_weights_are_loaded_by_name(hub, tokenizer, monkeypatch):
    model = small_gpt(tokenizer.vocab_size)
    monkeypatch.setattr(gpt.importlib.util, "find_spec", lambda name: None)    # as without safetensors
    gpt.export_pretrained(model, tokenizer, "folder")
    for file in Path("folder").iterdir():
        Hub.files[f"/openai-community/gpt2/resolve/main/{file.name}"] = file.read_bytes()
    weights = Path("folder/pytorch_model.bin").read_bytes()
    note = "/openai-community/gpt2/raw/main/pytorch_model.bin"
    Hub.files[note] = (f"version https://git-lfs.github.com/spec/v1\noid sha256:"
                       f"{hashlib.sha256(weights).hexdigest()}\nsize {len(weights)}\n").encode()
    loaded, theirs = gpt.load_model("gpt2")
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    assert theirs.encode("Mia lives in Oslo.") == tokenizer.encode("Mia lives in Oslo.")
    asked = len(Hub.asked)
    gpt.load_pretrained("gpt2")
    assert len(Hub.asked) == asked == 5
    Hub.files[note.replace("gpt2", "gpt2-xl")] = Hub.files[note]
    for name, content in list(Hub.files.items()):
        Hub.files[name.replace("gpt2", "gpt2-xl")] = content[:-1] + b"?" if "bin" in name else content
    with pytest.raises(UserError, match="checksum"):
        gpt.load_pretrained("gpt2-xl")                                         # damaged on its way


def test_a_folder_that_is_no_gpt_is_a_clear_message(tokenizer):
    gpt.export_pretrained(small_gpt(tokenizer.vocab_size), tokenizer, "m")
    good = {path.name: path.read_bytes() for path in Path("m").iterdir()}
    bad_shape = good["config.json"].replace(b'"n_embd": 16', b'"n_embd": 32')
    bert = good["config.json"].replace(b'"gpt2"', b'"bert"')
    for name, content, word in (("config.json", b"{", "not that of a GPT"), ("config.json", bert, "bert"),
                                ("config.json", bad_shape, "do not fit"), ("merges.txt", b"x", "not those"),
                                ("pytorch_model.bin", b"junk", "damaged")):
        (Path("m") / name).write_bytes(content)
        with pytest.raises(UserError, match=word):
            gpt.load_pretrained("m")
        (Path("m") / name).write_bytes(good[name])
    with pytest.raises(UserError, match="GPT-2's form"):
        gpt.export_pretrained(small_gpt(tokenizer.vocab_size, post_norm=True), tokenizer, "m")


def test_activation_memory_is_what_autograd_keeps():
    config, kept = GPTConfig(64, 96, 3, 4, 32), {}
    model = GPT(config)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(x):
        if x.is_floating_point() and x.untyped_storage().data_ptr() not in weights:
            kept[x.untyped_storage().data_ptr()] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        model(*torch.randint(64, (2, 1, 96)))
    numbers = sum(x.untyped_storage().nbytes() // 4 for x in kept.values())
    assert gpt.activations(config) == pytest.approx(numbers, rel=0.03)


def test_too_many_tokens_is_a_clear_message():
    with pytest.raises(UserError, match="context"):
        small_gpt()(torch.zeros(1, 17, dtype=torch.long))
    with pytest.raises(UserError):
        small_gpt(n_embd=15)


# --------------------------------------------------------------------------------------------- sampling


@pytest.mark.parametrize("window", [None, 1, 3, 5])
def test_cached_logits_equal_uncached_for_prompts_of_different_length(window):
    model = small_gpt(block_size=32, window=window).double()
    rows = [list(range(1, n)) for n in (4, 9, 2)]
    idx, lengths = (torch.from_numpy(a) for a in data.right_pad(rows, 7))
    cache = gpt.KVCache(model, lengths, 32)
    # a banded layer keeps what it can still see, and no more
    assert [k.size(2) for k in cache.k] == [32, window or 32]
    logits, _ = model(idx, cache=cache)
    last = logits[torch.arange(3), lengths - 1]
    for step in range(6):
        for b, row in enumerate(rows):
            assert torch.allclose(last[b], model(torch.tensor([row]))[0][0, -1], atol=1e-12)
        tokens = torch.tensor([(5 * step + b) % 50 for b in range(3)])
        for row, token in zip(rows, tokens.tolist()):
            row.append(token)
        last = model(tokens[:, None], cache=cache)[0][:, -1]
    # and several tokens at once behind a cache
    more = torch.randint(50, (3, 4))
    logits = model(more, cache=cache)[0]
    for b, row in enumerate(rows):
        # `last` fed one token that rows already hold, so the cache stands where the rows do
        assert torch.allclose(logits[b], model(torch.tensor([row + more[b].tolist()]))[0][0, -4:], atol=1e-12)


class PlusOne(GPT):
    """Deterministically says the previous token + 1."""

    def hidden(self, idx, cache=None):
        super().hidden(idx, cache)
        return F.one_hot((idx + 1) % self.config.vocab_size, self.config.n_embd).to(self.wte.weight.dtype)


def test_generation_with_a_policy_that_counts():
    model = PlusOne(GPTConfig(16, 8, 1, 1, 16))
    with torch.no_grad():
        torch.nn.init.eye_(model.wte.weight).mul_(1000)
    idx, lengths = torch.tensor([[3, 4, 5], [9, 0, 0]]), torch.tensor([3, 1])
    out = gpt.generate(model, idx, 5, lengths, stop_tokens=(8,), pad_token=0)
    assert out.tolist() == [[6, 7, 8, 0, 0], [10, 11, 12, 13, 14]]
    out, logprobs = gpt.generate(model, idx, 3, lengths, stop_tokens=(6,), pad_token=0, return_logprobs=True)
    assert out.tolist() == [[6, 0, 0], [10, 11, 12]] and torch.allclose(logprobs, torch.zeros(2, 3))
    out = gpt.generate(model, torch.tensor([[1]]), 40)                 # five times the context
    assert out[0].tolist() == [(2 + i) % 16 for i in range(40)]


def test_batched_generation_equals_row_by_row():
    model = small_gpt(block_size=32)
    rows = [[1, 2, 3, 4, 5], [6], [7, 8, 9]]
    idx, lengths = (torch.from_numpy(a) for a in data.right_pad(rows, 0))
    together = gpt.generate(model, idx, 12, lengths, temperature=0)
    for row, expected in zip(rows, together):
        alone = gpt.generate(model, torch.tensor([row]), 12, temperature=0)
        uncached = list(row)
        for _ in range(12):
            uncached.append(model(torch.tensor([uncached]))[0][0, -1].argmax().item())
        assert alone[0].tolist() == expected.tolist() == uncached[len(row):]


def test_reported_logprobs_are_the_models():
    model, prompt = small_gpt(block_size=32), torch.tensor([[1, 2, 3]])
    out, logprobs = gpt.generate(model, prompt, 8, temperature=0.7, top_k=5, return_logprobs=True,
                                 generator=torch.Generator().manual_seed(1))
    logits = model(torch.cat([prompt, out], 1))[0][:, 2:-1] / 0.7
    assert torch.allclose(logits.log_softmax(-1).gather(2, out[:, :, None])[:, :, 0], logprobs, atol=1e-5)
    again = gpt.generate(model, prompt, 8, temperature=0.7, top_k=5,
                         generator=torch.Generator().manual_seed(1))
    assert torch.equal(out, again)


def test_top_k_and_top_p_keep_just_what_they_say():
    probabilities = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.05, 0.15, 0.3, 0.5]])
    kept = lambda **options: torch.isfinite(
        gpt.truncate_logits(probabilities.log(), **options)).int().tolist()
    assert kept(top_k=2) == [[1, 1, 0, 0], [0, 0, 1, 1]]
    assert kept(top_p=0.79) == [[1, 1, 0, 0], [0, 0, 1, 1]]
    assert kept(top_p=0.81) == [[1, 1, 1, 0], [0, 1, 1, 1]]
    assert kept(top_p=0.0) == kept(top_k=1) == [[1, 0, 0, 0], [0, 0, 0, 1]]
    counts = torch.bincount(gpt.sample_next_token(probabilities[:1].log().expand(20000, 4),
                                                  generator=torch.Generator().manual_seed(0)), minlength=4)
    assert (counts / 20000 - probabilities[0]).abs().max() < 0.02      # 5.6 sigma of the largest


# --------------------------------------------------------------------------------------------- training


def test_muon_moves_singular_values_to_one_and_keeps_the_vectors():
    for shape in ((20, 50), (50, 20), (30, 30)):
        matrix = torch.randn(shape, dtype=torch.float64)
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        out = gpt.orthogonalize(matrix[None])[0]
        inner = u.T @ out @ vh.T                                       # diagonal in the old singular vectors
        assert (inner - inner.diag().diag()).abs().max() < 1e-8
        assert 0.3 < inner.diag()[s > 0.1 * s.max()].min() and inner.diag().max() < 1.3


def test_optimizer_groups_own_every_parameter_once():
    model = small_gpt()
    optimizers = gpt.make_optimizers(model, lr=1e-3, muon_lr=0.02, weight_decay=0.1)
    owned = [id(p) for o in optimizers for g in o.param_groups for p in g["params"]]
    assert sorted(owned) == sorted(id(p) for p in model.parameters())
    muon = {id(p) for p in optimizers[1].param_groups[0]["params"]}
    for name, p in model.named_parameters():
        assert (id(p) in muon) == (p.ndim == 2 and name.startswith("h.")), name
    for group in optimizers[0].param_groups:
        assert group["betas"] == (0.9, 0.95) and all(
            (p.ndim >= 2) == (group["weight_decay"] > 0) for p in group["params"])


def test_schedule_at_its_corners():
    at = lambda step: gpt.schedule(step, 100, 10)
    assert at(0) == pytest.approx(0.1) and at(9) == 1.0 and at(10) == 1.0 and at(100) == pytest.approx(0.1)
    assert at(55) == pytest.approx(0.55) and at(1000) == pytest.approx(0.1)


def toy_run(folder, steps, stop_at=None, dropout=0.1, accumulate=2):
    """A tiny pretraining run on counting; stop_at interrupts it like Ctrl-C."""
    torch.manual_seed(0)
    stream = np.arange(3000, dtype=np.uint16) % 40
    model, tokenizer = small_gpt(vocab_size=262, dropout=dropout), Tokenizer(BYTES)
    config = gpt.TrainConfig(steps=steps, batch_size=8 // accumulate, eval_every=5, warmup=2,
                             accumulate=accumulate)
    if stop_at:
        steps_done, forward = itertools.count(1), model.forward
        def interrupted(*args, **kwargs):
            if model.training and next(steps_done) > 2 * stop_at:
                raise KeyboardInterrupt
            return forward(*args, **kwargs)
        model.forward = interrupted
        with pytest.raises(KeyboardInterrupt):
            gpt.train(model, tokenizer, stream, stream[:200], config, Path(folder) / "m.pt", {"v": 1})
        return None
    result = gpt.train(model, tokenizer, stream, stream[:200], config, Path(folder) / "m.pt", {"v": 1})
    return model, result


def test_a_stopped_and_resumed_run_equals_one_that_was_not(capsys):
    straight, result = toy_run("a", 20)
    toy_run("b", 20, stop_at=13)
    resumed, result_b = toy_run("b", 20)
    assert "stands at step 10" in capsys.readouterr().out
    assert all(torch.equal(p, q) for p, q in zip(straight.parameters(), resumed.parameters()))
    assert result == result_b
    again, result_c = toy_run("b", 20)
    assert "reusing" in capsys.readouterr().out and result_c == result
    assert all(torch.equal(p, q) for p, q in zip(again.parameters(), resumed.parameters()))


def test_training_learns_and_accumulation_is_a_mean():
    _, result = toy_run("a", 250, dropout=0.0)
    assert result["loss"] < 1.0 < math.log(40)
    whole, halves = (toy_run(str(n), 3, dropout=0.0, accumulate=n)[0] for n in (1, 2))
    assert all(torch.allclose(p, q, atol=1e-5) for p, q in zip(whole.parameters(), halves.parameters()))


def test_bits_per_byte_of_a_uniform_model():
    model = small_gpt(vocab_size=262)
    torch.nn.init.zeros_(model.wte.weight)
    result = gpt.evaluate(model, Tokenizer(BYTES), np.frombuffer(b"x" * 500, np.uint8))
    assert (result["loss"] == pytest.approx(math.log(262))
            and result["bits_per_byte"] == pytest.approx(math.log2(262)))


def test_checkpoints_never_execute_what_they_hold_and_are_checked():
    import pickle
    class Evil:
        def __reduce__(self):
            return (os.system, ("touch executed",))
    Path("evil.pt").write_bytes(pickle.dumps({"config": Evil()}))
    torch.save({"config": Evil()}, "evil2.pt")
    Path("noise.pt").write_bytes(os.urandom(2000))
    Path("empty.pt").touch()
    for name in ("evil.pt", "evil2.pt", "noise.pt", "empty.pt", "missing.pt"):
        with pytest.raises(UserError):
            gpt.load_model(name)
    assert not Path("executed").exists()
    gpt.save_checkpoint("rm.pt", rlhf.RewardModel(small_gpt()), Tokenizer(BYTES), {})
    with pytest.raises(UserError, match="another kind"):
        gpt.load_model("rm.pt")


def test_files_appear_whole_or_not_at_all():
    Path("f").write_text("old")
    with pytest.raises(RuntimeError):
        with data.atomic_write("f") as file:
            file.write(b"half")
            raise RuntimeError
    assert Path("f").read_text() == "old" and os.listdir() == ["f"]


# -------------------------------------------------------------------- GPT-1: fine-tuning [GPT-1 §3.2, §3.3]


def task_tokens(tokenizer):
    return range(tokenizer.vocab_size, tokenizer.vocab_size + 3)                # start, delimiter, extract


def test_the_four_input_formats(tokenizer):
    start, delimiter, extract = task_tokens(tokenizer)
    a, b, c = ([*tokenizer.encode(text)] for text in (" one", " two", " three four"))
    assert data.classification_input(tokenizer, "one", 99) == [[start, *a, extract]]
    assert data.entailment_input(tokenizer, "one", "two", 99) == [[start, *a, delimiter, *b, extract]]
    assert data.similarity_inputs(tokenizer, "one", "two", 99) == [
        [start, *a, delimiter, *b, extract], [start, *b, delimiter, *a, extract]]
    assert data.multiple_choice_inputs(tokenizer, "one", "two", ["three four", "one"], 99) == [
        [start, *a, *b, delimiter, *c, extract], [start, *a, *b, delimiter, *a, extract]]
    typed = data.classification_input(tokenizer, "<|endoftext|><|end|>", 99)[0][1:-1]
    assert max(typed) < len(tokenizer.ranks)
    answers = ["short", "long " * 40]
    for limit in (8, 9, 20):
        for row in data.multiple_choice_inputs(tokenizer, "long " * 90, "question", answers, limit):
            assert len(row) == limit and (row[0], row[-1]) == (start, extract)
            assert row[row.index(delimiter) - 1] == tokenizer.encode(" question")[-1]


@pytest.fixture
def classifier(tokenizer):
    def make(classes, dropout=0.0, **options):
        model = small_gpt(tokenizer.vocab_size, 64, post_norm=True, **options)
        for parameter in model.h.parameters():                 # so that what comes first matters
            torch.nn.init.normal_(parameter, std=0.5)
        made = gpt.Classifier(model, tokenizer.vocab_size + 3, classes, dropout)
        torch.nn.init.normal_(made.head.weight)
        return made
    return make


def encode(tokenizer, inputs, *texts):
    return gpt.encoder(inputs, tokenizer, 64, "cpu")([data.Labeled(t, 0) for t in texts])


def test_pads_cannot_change_a_class_nor_the_auxiliary_loss(tokenizer, classifier):
    model = classifier(3).double()
    pair, longer = ("a cat", "it sleeps"), ("a dog " * 9, "it barks " * 5)
    alone = model(*encode(tokenizer, data.entailment_input, pair)[:2])
    both = model(*encode(tokenizer, data.entailment_input, pair, longer)[:2])
    other = model(*encode(tokenizer, data.entailment_input, longer)[:2])
    torch.testing.assert_close(both[0], torch.cat([alone[0], other[0]]))
    torch.testing.assert_close(both[1], (alone[1] + other[1]) / 2)             # sequences count the same


def test_similarity_knows_no_order_and_choices_have_no_place(tokenizer, classifier):
    model = classifier(2).double()
    ab, ba = (model(*encode(tokenizer, data.similarity_inputs, pair)[:2])[0]
              for pair in (("a cat", "the old dog"), ("the old dog", "a cat")))
    torch.testing.assert_close(ab, ba)
    one_way, other_way = (model(*encode(tokenizer, data.entailment_input, pair)[:2])[0]
                          for pair in (("a cat", "the old dog"), ("the old dog", "a cat")))
    assert (one_way - other_way).abs().max() > 1e-3                            # entailment does
    model = classifier(None).double()
    answers = ["red", "blue as ice", "a green one"]
    scores = model(*encode(tokenizer, data.multiple_choice_inputs, ("a sky", "which?", answers))[:2])[0]
    moved = model(*encode(tokenizer, data.multiple_choice_inputs, ("a sky", "which?", answers[::-1]))[:2])[0]
    torch.testing.assert_close(scores.flip(1), moved)
    assert scores.std() > 1e-3


def test_the_auxiliary_loss_is_the_mean_over_sequences_of_the_mean_over_their_tokens(tokenizer, classifier):
    model = classifier(2).double()
    texts = [("a cat",), ("a much longer text about dogs",)]
    ids, lengths, _ = encode(tokenizer, data.classification_input, *texts)
    means = []
    for (row,), (n,) in zip(ids, lengths):                         # delimiter and extract are predicted too
        logprobs = model.model(row[None, :n - 1])[0].log_softmax(-1)[0]
        means.append(-logprobs[torch.arange(n - 1), row[1:n]].mean())
    torch.testing.assert_close(model(ids, lengths)[1], sum(means) / 2)


def test_the_candidates_of_a_case_share_the_heads_dropout_mask(tokenizer, classifier):
    model = classifier(None, dropout=0.5).train()
    gpt.set_dropout(model.model, 0.0)
    scores = model(*encode(tokenizer, data.multiple_choice_inputs, *[("a", "b", ["c", "c"])] * 8)[:2])[0]
    assert torch.equal(scores[:, 0], scores[:, 1]) and scores[:, 0].std() > 1e-3


def test_transfer_copies_what_it_says():
    model = small_gpt(n_layer=3, post_norm=True)
    for layers in (-1, 0, 1, 3, None):
        new = gpt.transfer(model, layers)
        kept = {name for name, tensor in new.state_dict().items()
                if tensor.std() > 0 and torch.equal(tensor, model.state_dict()[name])}
        wanted = {name for name, tensor in model.state_dict().items() if tensor.std() > 0 and (
            layers is None or layers >= 0 and (name[1] != "." or int(name[2]) < layers))}
        assert kept == wanted
    assert next(new.parameters()).data_ptr() != next(model.parameters()).data_ptr()


def test_the_lstm_is_as_large_as_the_blocks_and_never_sees_the_future():
    config = GPTConfig(1000, 64, 3, 4, 128)
    model, blocks = gpt.LSTM(config), GPT(config).h
    size = sum(p.numel() for module in (model.lstm, model.c_proj) for p in module.parameters())
    assert 0.98 < size / sum(p.numel() for p in blocks.parameters()) < 1.0
    idx = torch.randint(1000, (2, 20))
    changed = idx.clone()
    changed[:, 12] += 1 - 2 * (changed[:, 12] > 500).long()
    assert torch.equal(model(idx)[0][:, :12], model(changed)[0][:, :12])
    assert not torch.equal(model(idx)[0][:, 12], model(changed)[0][:, 12])


def test_fine_tuning_learns_and_lambda_zero_leaves_the_language_model_out(tokenizer):
    cases = [data.Labeled((f"{word} {other}",), label) for other in ("cat", "dog", "house", "tree")
             for label, word in enumerate(("good", "bad", "odd"))]
    encoded = gpt.encoder(data.classification_input, tokenizer, 64, "cpu")
    losses = {}
    for lm_coef in (0.0, 2.0):
        torch.manual_seed(0)
        model = gpt.Classifier(small_gpt(tokenizer.vocab_size, 64), tokenizer.vocab_size + 3, 3, 0.0)
        gpt.fine_tune(model, encoded, cases, gpt.FinetuneConfig(epochs=40, lr=1e-2, lm_coef=lm_coef), 0)
        assert gpt.classifier_accuracy(model, encoded, cases) == 1.0
        losses[lm_coef] = model.eval()(*encoded(cases)[:2])[1].item()
    assert losses[2.0] < losses[0.0] - 1                          # only with lambda are the texts learned


def test_tasks_are_held_out(world):
    texts = {(task, split): [case.texts for case in data.gpt1_task(world, task, split, 400, seed=3)]
             for task in data.GPT1_TASKS for split in ("train", "test")}
    for task in data.GPT1_TASKS:
        assert not set(map(str, texts[task, "train"])) & set(map(str, texts[task, "test"]))
        labels = Counter(case.label for case in data.gpt1_task(world, task, "test", 400, seed=3))
        assert max(labels.values()) < 1.35 * 400 / len(labels)                 # chance is chance
    adjectives = {split: {word for (text,) in texts["classification", split]
                          for word in re.findall(r"\w+", text) if word in data.HAPPY + data.SAD}
                  for split in ("train", "test")}
    assert len(adjectives["test"]) == 8 and not adjectives["train"] & adjectives["test"]
    for task in ("entailment", "similarity", "multiple choice"):
        people = {split: {n for text in texts[task, split] for n in world.people
                          if re.search(rf"\b{n}\b", str(text))} for split in ("train", "test")}
        assert len(people["test"]) == 14 and not people["train"] & people["test"]


def test_no_text_of_the_web_asks_what_the_tests_of_gpt1_ask(world):
    lines = {line.removeprefix("Q: ") for document in data.web(world, 12_000, 0, data.WIDE_WEB)
             for line in document.splitlines()}
    for case in data.gpt1_task(world, "classification", "test", 200, 1):
        review, = (s for s in data.split_sentences(case.texts[0]) if s not in data.ASIDES)
        assert f"Was it good? {review}" not in lines
    for case in data.gpt1_task(world, "multiple choice", "test", 200, 1):
        assert case.texts[1] not in lines
    for case in data.gpt1_task(world, "entailment", "test", 200, 1):
        assert case.texts[1] not in lines


def test_labeled_lines():
    Path("x.tsv").write_text("a film\t1\r\nwith a\ttab in it\t0\n\n")
    assert data.load_labeled("x.tsv") == [data.Labeled(("a film",), 1),
                                          data.Labeled(("with a\ttab in it",), 0)]
    for bad in ("", "\n", "no label\n", "a film\tgood\n", "\t1\n", "a film\t-1\n", "a film\t1234567\n"):
        Path("x.tsv").write_text(bad)
        with pytest.raises(UserError, match="x.tsv"):
            data.load_labeled("x.tsv")


# ----------------------------------------------------------------------- GPT-2: tasks as text [GPT-2 §3]


def test_completion_logprob_is_that_of_the_whole_softmax(tokenizer):
    model = small_gpt(tokenizer.vocab_size, 24, 2, 2, 16).double().eval()
    torch.nn.init.normal_(model.wte.weight)
    for context, completion in (("the cat", " sat on a mat."), ("", "one two"), ("Mia lives in", " Oslo."),
                                ("a long context that must be cut" * 5, " and its end")):
        ids = [tokenizer.eot, *tokenizer.encode(context + completion)]
        n = len(ids) - 1 - len(tokenizer.encode(context))
        logprobs = model(torch.tensor([ids[-24:][:-1]]))[0].log_softmax(-1)[0]
        total = sum(logprobs[-n + i, ids[-n + i]] for i in range(n)).item()
        assert gpt.completion_logprob(model, tokenizer, context, completion) == (pytest.approx(total), n)
    together = gpt.completion_logprobs(model, tokenizer, [("a", " b c"), ("a longer one", " d")])
    assert together == [(pytest.approx(x), n) for x, n in (
        gpt.completion_logprob(model, tokenizer, *pair) for pair in (("a", " b c"), ("a longer one", " d")))]


def test_a_token_across_the_seam_belongs_to_the_completion(tokenizer):
    model = small_gpt(tokenizer.vocab_size, 24, 1, 2, 16)
    word = max((t for t in tokenizer.ranks if t.startswith(b" ") and t.isascii()), key=len).decode()
    assert gpt.completion_logprob(model, tokenizer, word[:3], word[3:])[1] == 1
    assert gpt.completion_logprob(model, tokenizer, "x ", word[1:])[1] == 1    # the space is the word's


def test_choices_by_mean_and_by_sum_differ_where_lengths_do(monkeypatch):
    monkeypatch.setattr(gpt, "completion_logprobs", lambda *_: [(-2.0, 1), (-3.0, 3)])
    cases = [[("", "short"), ("", "a long one")]]
    assert gpt.choose(None, None, cases) == [1] and gpt.choose(None, None, cases, per_token=False) == [0]


def test_scores_of_texts_by_hand():
    assert data.ngram_f1("You live in Oslo.", "you live in Rome") == 0.75
    assert data.ngram_f1("a a b", "a b b") == pytest.approx(2 / 3)            # counted, not only found
    # ROUGE-1 = 3/4; ROUGE-2: {ab, bd} {ab, bc, cd}... of "a b d" and "a b c d e": 2*1/(2+4); ROUGE-L: abd
    assert data.rouge("a b d", "a b c d e") == pytest.approx((6 / 8 + 2 / 6 + 6 / 8) / 3)
    assert data.bleu(["a b"], ["a b"]) == 1 and data.bleu(["b a"], ["a b"]) == 0
    # unigrams 3 of 3, bigrams 1 of 1, three words instead of four
    assert data.bleu(["a b", "c"], ["a b", "c d"]) == pytest.approx(math.exp(1 - 4 / 3))
    assert data.ngram_f1("", "") == data.rouge("", "a") == data.bleu([""], ["a"]) == 0


def test_gpt2s_tasks_are_held_out_of_the_wide_web(world):
    documents = list(data.web(world, 8000, 0, data.WIDE_WEB))
    whole = "\n".join(documents)
    assert sum(" = " in d for d in documents) > 500 and sum("TL;DR:" in d for d in documents) > 500
    for task in ("to foreign", "to English", "reading", "schemas", "summaries", "questions"):
        for case in data.gpt2_task(world, task, 60):
            last = case[0].splitlines()[-1] + (case[1] if task.startswith("to ") else "")
            if task == "reading":
                last = "\n".join(case[0].splitlines()[:4])                       # what is told, and the chat
            elif task == "schemas":
                last = f"{case[0]} {case[1][case[3]]}{case[2]}"
            elif task == "summaries":
                last = case[1]
            elif task == "questions":
                last = case[0].splitlines()[-2]
            assert last not in whole, (task, last)
    for before, choices, behind, right in data.gpt2_task(world, "cities", 40):
        story = data.split_sentences(f"{before} {choices[right]}{behind}")
        assert len(set(choices)) == 10
        assert all(world.facts[world.meaning[s][:2]] == world.meaning[s][2] for s in story)


def test_gpt2s_tasks_know_right_from_wrong(world, tokenizer, monkeypatch):
    """Against a model that has every answer, and one that has none."""
    tasks = {task: data.gpt2_task(world, task, 20) for task in (
        "to foreign", "to English", "reading", "last word", "common nouns", "cities", "schemas", "summaries",
        "questions")}
    right = {}
    for task in ("to foreign", "to English", "reading", "last word"):
        right |= dict(tasks[task])
    right |= {f"{story}\nTL;DR:": summary for story, summary in tasks["summaries"]}
    right |= {text: world.state(random.Random(0), *topic) for text, topic in tasks["questions"]}
    true = {f"{before} {choices[place]}{behind}" for task in ("common nouns", "cities", "schemas")
            for before, choices, behind, place in tasks[task]}
    texts = {tuple([tokenizer.eot, *tokenizer.encode(prompt)]): answer for prompt, answer in right.items()}
    for knows in (True, False):
        monkeypatch.setattr(gpt, "complete", lambda _, __, rows, *___, **____: [
            (texts[tuple(row)].strip() if knows else "something else", True) for row in rows])
        monkeypatch.setattr(gpt, "completion_logprobs", lambda _, __, pairs: [
            (0.0 if knows == (a + b in true or right.get(a) == b) else -9.0, 1) for a, b in pairs])
        scores = gpt.zero_shot_tasks(None, tokenizer, world, 20)
        assert set(scores) | {"bits per byte"} == set(gpt.GPT2_TABLE)
        for task, score in scores.items():
            assert score == (1 if knows else math.exp(9) if "perplexity" in task else 0), (task, score)


def test_the_ladder_of_sizes_doubles():
    sizes = [GPT(gpt.PRESETS[name]).num_params() for name in gpt.OUR_SIZES]
    assert len(sizes) >= 4 and all(1.8 < b / a < 2.3 for a, b in zip(sizes, sizes[1:]))


# ------------------------------------------------------------------------ GPT-3's tasks and its data pipeline


def test_stacked_bands_see_as_far_as_they_should():
    """k bands of w keys reach back k (w - 1) tokens, and no further. [Sparse Transformer]"""
    x = torch.randn(1, 1, 20, 4, dtype=torch.double, requires_grad=True)
    y = x
    for _ in range(3):
        y = gpt.fused_attention(y, y, y, window=4)
    y[0, 0, 15].sum().backward()
    assert (x.grad[0, 0].abs().sum(-1) > 0).nonzero()[:, 0].tolist() == list(range(15 - 3 * 3, 16))


@pytest.mark.parametrize("task, form", [
    ("2D+", r"\n\nQ: What is (?P<a>\d{1,2}) plus (?P<b>\d{1,2})\?\n\nA:"),
    ("5D-", r"\n\nQ: What is (?P<a>\d{1,5}) minus (?P<b>\d{1,5})\?\n\nA:"),
    ("2Dx", r"\n\nQ: What is (?P<a>\d{1,2}) times (?P<b>\d{1,2})\?\n\nA:"),
    ("1DC", r"\n\nQ: What is (?P<all>\(\d [-+*] \d\) [-+*] \d)\?\n\nA:")])
def test_arithmetic_is_right_and_in_the_form_of_the_released_files(world, task, form):
    rng, sign = random.Random(0), {"+": "+", "-": "-", "x": "*"}.get(task[-1])
    for _ in range(200):
        context, completion = data.gpt3_task(world, rng, "test", task)
        found = re.fullmatch(form, context).groupdict()
        assert completion == f" {eval(found.get('all') or found['a'] + sign + found['b'])}"


def test_scrambled_words_hold_what_their_names_say(world):
    rng, split_words = random.Random(0), {}
    for task in data.SCRAMBLED:
        for split in ("train", "test"):
            cases = [data.gpt3_task(world, rng, split, task) for _ in range(300)]
            split_words[task, split] = {completion for _, completion in cases}
            for context, completion in cases:
                scrambled, word = re.fullmatch(r"\n(.+) =", context)[1], completion[1:]
                assert len(word) > 4 and completion[0] == " "
                cycled = scrambled in word * 2 and scrambled != word or len(set(word)) < len(word)
                assert {"CL": lambda: cycled,
                        "A1": lambda: sorted(scrambled) == sorted(word) and scrambled[0] + scrambled[-1] ==
                        word[0] + word[-1],
                        "A2": lambda: sorted(scrambled) == sorted(word) and scrambled[:2] + scrambled[-2:] ==
                        word[:2] + word[-2:],
                        "RI": lambda: scrambled[::2] == word and set(scrambled[1::2]) <= set(" ./!"),
                        "RW": lambda: scrambled == word[::-1]}[task](), (task, scrambled, word)
        assert not split_words[task, "train"] & split_words[task, "test"]


def test_a_rule_is_held_out_and_told_by_nothing_but_the_prompt(world):
    def rules(split):
        drawn = [data.rule(world, random.Random(i), split) for i in range(300)]
        return {frozenset((c, completion) for c, completion, _ in cases) for _, cases in drawn}, drawn
    (train, _), (test, drawn) = rules("train"), rules("test")
    assert not train & test and len(test) > 50
    for word in ("\ndog =", "\nOslo ="):             # across rules, every sign is as likely as the others
        counts = Counter(completion for _, cases in drawn for c, completion, _ in cases if c == word)
        assert len(counts) == 4 and min(counts.values()) > 300 / 4 * 0.6
    description, cases = drawn[0]
    assert len({c for c, _, _ in cases}) == len(cases) == 60
    assert all(completion in choices and completion in description for _, completion, choices in cases)
    prompt = data.few_shot_prompt([c[:2] for c in cases[:2]], cases[2][0], description)
    assert prompt == description + "".join(c[0] + c[1] for c in cases[:2]) + cases[2][0]
    assert description in data.few_shot_prompt([], "x", description) and "=" not in description


def test_few_shot_accuracy_reads_the_examples_and_only_them(world, tokenizer, monkeypatch):
    """An oracle that gives a completion that stands in the prompt the higher probability is right as often as
    an example of the topic is there; with shuffled labels it is not."""
    monkeypatch.setattr(gpt, "completion_logprobs", lambda model, tokenizer, pairs: [
        (context.count(completion + "\n") + 0.0, 1) for context, completion in pairs])
    accuracy = [gpt.few_shot_accuracy(None, tokenizer, world, K, 400) for K in (0, 4, 32)]
    assert abs(accuracy[0] - 1 / 4) < 0.1 and 0.5 < accuracy[1] < 0.85 and accuracy[2] > 0.98
    described = gpt.few_shot_accuracy(None, tokenizer, world, 0, 400, described=True)
    assert abs(described - 1 / 4) < 0.1              # this oracle reads lines, not the description's commas
    assert abs(gpt.few_shot_accuracy(None, tokenizer, world, 32, 400, shuffled=True) - 1 / 4) < 0.1


def test_choices_relative_to_what_is_likely_anyway(monkeypatch):
    """P(completion | context) / P(completion | "A:") prefers what the context has made likelier."""
    logprobs = {("Q", " yes"): -1.0, ("Q", " rare"): -3.0, ("A:", " yes"): -0.5, ("A:", " rare"): -9.0}
    monkeypatch.setattr(gpt, "completion_logprobs", lambda m, t, pairs: [(logprobs[p], 1) for p in pairs])
    case = [[("Q", " yes"), ("Q", " rare")]]
    assert gpt.choose(None, None, case) == [0] and gpt.choose(None, None, case, relative_to="A:") == [1]


def test_the_quality_filter_keeps_by_its_closed_form():
    """np.random.pareto(9) > 1 - score keeps with probability (2 - score)^-9."""
    for score in (0.0, 0.5, 0.9, 1.0):
        kept = sum(1 for _ in data.quality_filter(["x"] * 40_000, lambda text: score,
                                                  np.random.default_rng(0)))
        expected = 40_000 * (2 - score) ** -9.0
        assert abs(kept - expected) <= 4 * math.sqrt(expected) + 1e-9


@pytest.fixture(scope="module")
def pages(world):
    tests = [f"{a}\nTL;DR: {b}" for a, b in (world.trip(random.Random(i), "test") for i in range(150))]
    return tests, list(data.crawl(world, 6000, 0, tests))


def test_the_classifier_knows_junk_and_is_not_sure_of_what_the_crawl_has_too(world, pages):
    good = ["\n\n".join(data.web(world, 12, f"good {i}", data.WIDE_WEB)) for i in range(600)]
    texts = [page.text for page in pages[1]]
    score = data.QualityClassifier().fit(good, texts[:2000], random.Random(0))
    found = {kind: np.median([score(page.text) for page in pages[1][2000:] if page.kind == kind])
             for kind in data.CRAWL}
    assert found["junk"] < 0.05 and 0.5 < found["good"] < 0.9
    assert score("") == pytest.approx(1 / (1 + math.exp(-score.bias)))


def test_near_duplicates_are_found(pages):
    """Recall and precision on a crawl whose copies are known (each word changed with probability 0.02)."""
    texts = [page for page in pages[1] if page.kind != "junk"]
    gone = []
    left = list(data.deduplicate((page.text for page in texts), gone.append))
    assert len(left) + len(gone) == len(texts)
    copies = {page.text for page in texts if page.kind == "copy"}
    found = len(copies & set(gone))
    assert found / len(copies) > 0.9 and found / len(gone) > 0.9
    assert list(data.deduplicate(["", "!?", "a b", "a b", "a b c d"])) == ["a b", "a b c d"]


def test_minhash_estimates_the_jaccard_similarity():
    """Two texts that share a third of their word triples meet at a threshold below 1/3, not above."""
    def text(numbers):
        return " ".join(f"w{i}" for i in numbers)
    one, other = text(range(1000)), text(range(500, 1500))        # 498 of 1498 triples are shared
    for threshold, count in ((0.15, 1), (0.55, 2)):
        assert len(list(data.deduplicate([one, other], hashes=100, threshold=threshold, slots=256))) == count


def test_decontamination_by_its_rule():
    test_text = " ".join(f"t{i}" for i in range(20))
    filler = lambda name, n: " ".join(f"{name}{i}" for i in range(n))
    long, other = filler("a", 200), filler("b", 200)

    def result(*documents, **options):
        cut = []
        return list(data.decontaminate(lambda: iter(documents), [test_text], cut.append, **options)), cut
    # case and punctuation do not hide it; 200 characters on either side go, too
    (before, behind), (cut,) = result(f"{long} {test_text.upper().replace(' ', ', ')}! {other}")
    assert long.startswith(before) and len(long) - len(before) == 199
    assert other.endswith(behind) and len(other) - len(behind) == 199
    assert len(before) + len(cut) + len(behind) == len(f"{long} {test_text.replace(' ', ', ')}! {other}")
    # twelve words are no 13-gram, thirteen are
    twelve = " ".join(test_text.split()[:12])
    assert result(f"{long} {twelve} {other}")[0] == [f"{long} {twelve} {other}"]
    assert len(result(f"{long} {twelve} t12 {other}")[0]) == 2
    # a piece below 200 characters is dropped; a document in more than ten pieces is
    assert result(f"{filler('c', 60)} {test_text} {other}")[0] == [behind]
    many = lambda n: f" {test_text} ".join(filler(f"d{i}x", 200) for i in range(n))
    assert len(result(many(10))[0]) == 10 and result(many(11))[0] == []
    # what more than ten documents say is a phrase of everybody's
    assert len(result(*[f"{long} {test_text} {i}" for i in range(11)])[0]) == 11
    assert all(test_text not in piece for piece in result(*[f"{long} {test_text} {i}" for i in range(10)])[0])


def test_leaked_questions_are_gone_from_a_cleaned_crawl(pages):
    tests, crawled = pages
    texts = [page.text for page in crawled if page.kind != "junk"]
    grams = {g for t in tests for g in data.gram_ids(data.word_ids(t), 13).tolist()}
    counts = Counter(gram for text in texts
                     for gram in grams.intersection(data.gram_ids(data.word_ids(text), 13).tolist()))
    assert counts and max(counts.values()) > 10                     # both sides of the rule occur
    left = Counter(g for text in data.decontaminate(lambda: iter(texts), tests)
                   for g in set(data.gram_ids(data.word_ids(text), 13).tolist()) & grams)
    assert all(counts[g] > 10 for g in left)


def test_a_mixture_has_its_weights_and_says_its_epochs():
    epochs, sources = {}, {"small": (lambda: ["s" * 10] * 5, 0.4), "large": (lambda: ["l" * 10] * 500, 0.6)}
    text = "".join(data.mix(sources, 1000, epochs))
    assert text.count("s") == 400 and text.count("l") == 600
    assert epochs == {"small": 8.0, "large": 0.12}
    with pytest.raises(UserError, match="nothing"):
        list(data.mix({"none": (lambda: [], 1.0)}, 10, {}))


def test_the_pipelines_memory_does_not_grow_with_the_crawl():
    def peak(count):
        texts = lambda: (f"{i} " * 40 + "some words that are not a test" for i in range(count))
        tracemalloc.start()
        kept = data.quality_filter(texts(), lambda text: 0.9, np.random.default_rng(0))
        for _ in data.deduplicate(kept, slots=64):
            pass
        for _ in data.decontaminate(texts, ["one two " * 10]):
            pass
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used
    peak(10)                                             # what numpy loads on first use
    assert peak(3000) < 1.2 * peak(300) + 10_000


def test_clean_on_your_own_crawl_and_what_can_be_wrong_with_it():
    rng = random.Random(0)
    good = [" ".join(rng.choices("the cat sat quietly on a warm red mat today".split(), k=80))
            for _ in range(120)]
    Path("good.txt").write_text("<|endoftext|>".join(good))
    bad = [" ".join(rng.choices("buy cheap click here now free 99 the cat sat".split(), k=80))
           for _ in range(900)]
    Path("raw.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in bad))
    done = run(HERE / "data.py", "clean", "--data", "raw.jsonl", "--good", "good.txt", "--name", "own")
    assert done.returncode == 0, done.stderr
    assert list(data.load_text("runs/own/clean.jsonl")) and "contamination" in done.stdout
    alone = run(HERE / "data.py", "clean", "--data", "raw.jsonl")
    assert alone.returncode == 2 and alone.stderr.startswith("error: a crawl of your own needs")
    Path("few.txt").write_text("<|endoftext|>".join(good[:99]))
    few = run(HERE / "data.py", "clean", "--data", "raw.jsonl", "--good", "few.txt")
    assert few.returncode == 2 and "99 documents" in few.stderr


# ------------------------------------------------------------------- PPO where everything can be counted


@pytest.fixture(scope="module")
def problem():
    return rlhf.Counted(R=2, seed=0)


def test_all_answers_are_counted_and_their_probabilities_sum_to_one(problem):
    assert len(problem.rows) == len(set(problem.rows)) == 1 + 8 + 64        # <|end|>; x <|end|>; x y
    rho = problem.log_probabilities(problem.reference)
    assert rho.exp().sum().item() == pytest.approx(1, abs=1e-5)
    reward, kl = problem.reward_and_kl(rho, rho)
    assert kl == 0 and reward == pytest.approx((rho.exp() @ problem.rewards.double()).item())


def test_the_best_of_n_is_exact_and_its_kl_below_the_bound(problem):
    rho = problem.log_probabilities(problem.reference)
    generator = torch.Generator().manual_seed(0)
    draws = torch.multinomial(rho.exp(), 40_000 * 4, replacement=True, generator=generator)
    sampled = problem.rewards[draws].view(-1, 4).max(dim=1).values
    reward, kl = problem.best_of(4, rho)
    assert reward == pytest.approx(sampled.mean().item(), abs=5 * sampled.std().item() / 200)
    assert 0 < kl <= math.log(4) - 3 / 4
    assert problem.best_of(1, rho) == pytest.approx(problem.reward_and_kl(rho, rho), abs=1e-6)


def test_no_policy_beats_the_closed_form(problem):
    """E r - beta KL of the reference, of tilted policies and of random ones stays below beta log Z."""
    rho, beta = problem.log_probabilities(problem.reference), 0.7
    optimum = beta * (rho + problem.rewards.double() / beta).logsumexp(0).item()
    generator, objectives = torch.Generator().manual_seed(0), []
    for scale in (0.0, 0.3, 0.7, 1.0, 3.0):
        logits = rho + scale * (problem.rewards.double() + torch.randn(len(rho), generator=generator) * 0.3)
        reward, kl = problem.reward_and_kl(logits.log_softmax(0), rho)
        objectives.append(reward - beta * kl)
    assert max(objectives) < optimum
    logp = (rho + problem.rewards.double() / beta).log_softmax(0)
    reward, kl = problem.reward_and_kl(logp, rho)
    assert reward - beta * kl == pytest.approx(optimum, abs=1e-4)


def test_ppo_reaches_the_closed_form_optimum(problem):
    """pi* = rho exp(r / beta) / Z: within 5 % of what there is to gain. [Ziegler et al. §2]"""
    rho, beta = problem.log_probabilities(problem.reference), 1.0
    config = rlhf.PPOConfig(iterations=140, batch_size=256, max_response=2, kl_coef=beta, lr=1e-3,
                            unfinished_score=math.inf)
    policy = copy.deepcopy(problem.reference)
    rlhf.train_ppo(policy, problem, problem.tokenizer, lambda n: [problem.prompt] * n, config, 0, Path("log"))
    reward, kl = problem.reward_and_kl(problem.log_probabilities(policy), rho)
    start, optimum = problem.reward_and_kl(rho, rho)[0], (rho + problem.rewards.double()).logsumexp(0).item()
    assert optimum - start > 0.1 and (reward - beta * kl - start) / (optimum - start) > 0.95


def test_best_of_n_is_the_mean_over_all_choices_of_n():
    rng = np.random.default_rng(0)
    proxy, values = rng.normal(size=(2, 6)), rng.normal(size=(2, 6))
    for n in (1, 3, 6):
        expected = np.mean([values[row][max(chosen, key=lambda i: proxy[row][i])]
                            for row in range(2) for chosen in itertools.combinations(range(6), n)])
        assert rlhf.best_of_n(proxy, values, n) == pytest.approx(expected)


@pytest.mark.parametrize("log, peak", [(False, 0.9 / 0.4), (True, math.exp(0.9 / 0.2 - 1))])
def test_the_fits_of_gold_recover_what_was_planted(log, peak):
    d = np.linspace(0.3, 4, 20)
    gold = d * (0.9 - 0.2 * (np.log(d) if log else d))
    assert rlhf.fit_gold(d, gold, log) == pytest.approx((0.9, 0.2, peak))
    assert rlhf.fit_gold(d, d * 0.5 + d * d, False)[2] == math.inf


def test_a_reward_that_is_a_function_sees_prompt_and_response(tokenizer):
    messages = [{"role": "user", "content": "first"}, {"role": "assistant", "content": "reply"},
                {"role": "user", "content": "How long <|end|>?"}]
    prompt = rlhf.prompt_ids(tokenizer, messages, 60)
    rows = [[*prompt, *tokenizer.encode(text), tokenizer.end] for text in (" abc", " five words")]
    ids, lengths = gpt.to_tensors(rows, tokenizer.pad, "cpu")
    seen = []
    reward = rlhf.TextReward(lambda *texts: seen.append(texts) or len(texts[1]), tokenizer)
    scores = reward(ids, lengths - 1, torch.tensor([len(prompt)] * 2))
    assert scores.tolist() == [3.0, 10.0]
    assert seen[0] == ("first reply How long <|end|>?", "abc") and seen[1][1] == "five words"


def test_the_value_network_starts_as_the_reward_model(tokenizer, monkeypatch):
    policy = small_gpt(tokenizer.vocab_size, 64)
    reward_model, seen = rlhf.RewardModel(policy), []
    torch.nn.init.normal_(reward_model.head.weight)
    pairs = lambda value_model: zip(value_model.parameters(), reward_model.parameters())
    monkeypatch.setattr(rlhf, "ppo_step", lambda policy, value_model, *rest: seen.append(
        [torch.equal(a, b) for a, b in pairs(value_model)]) or {"ratio": 1})
    config = rlhf.PPOConfig(iterations=1, batch_size=4, minibatches=1, max_response=4)
    rlhf.train_ppo(policy, reward_model, tokenizer, lambda n: [HELLO[:1]] * n, config, 0, Path("log"))
    assert len(seen) == 1 and all(seen[0])


def test_labelers_differ_and_unseen_wordings_are_judged(world):
    assert data.rubric_of(1) == data.rubric_of(1) != data.rubric_of(2)
    assert all(math.copysign(1, w) == math.copysign(1, data.RUBRIC[part])
               for part, w in data.rubric_of(3).items() if data.RUBRIC[part])
    known = {i.prompt for split in ("train", "test") for i in data.instructions(world, split, 2000, seed=1)}
    drawn = data.unseen_instructions(world, 50, 0)
    assert not known & {i.prompt for i in drawn if i.use_case != "question alone"}
    assert {i.use_case for i in drawn} == {
        "unseen wording", "second language", "false premise", "question alone"}
    for instruction in drawn:
        if instruction.say:
            assert data.gold(world, instruction, instruction.say) == 2
        if instruction.facts:
            n, topic, _ = instruction.facts
            *false, question = data.split_sentences(instruction.prompt)
            assert data.judge(world, instruction, world.state(random.Random(0), n, topic))["helpful"] == 1
            assert question.endswith("?") and len(false) == (instruction.use_case == "false premise")
            assert all(data.judge(world, instruction, text)["invented"] for text in false)


@pytest.mark.parametrize("between", [0, 1, 3])
def test_memory_is_asked_for_after_so_many_exchanges(between):
    task = rlhf.WorldTask(0, 10)
    answers = {(i.messages[0]["content"], i.messages[-1]["content"]): i.say
               for i in data.instructions(task.world, "test", 1000, seed=5) if len(i.messages) == 5}

    def remembers(conversations, seed):
        assert {len(messages) for messages in conversations} == {3 + 2 * between}
        assert all([m["role"] for m in c[:3]] == ["user", "assistant", "user"] for c in conversations)
        return [(answers[c[0]["content"], c[-1]["content"]], True) for c in conversations]

    assert task.memory_accuracy(remembers, 20, between) == 1
    assert task.memory_accuracy(lambda c, seed: [("No.", True)] * len(c), 20, between) == 0


def test_rankings_by_hand(capsys):
    assert rlhf.parse_ranking("3 1=4 2", 4) == [1, 2, 0, 1]
    assert rlhf.parse_ranking("2 = 1", 2) == [0, 0]
    for line in ("1", "1 1", "1 2 3", "a b"):
        assert rlhf.parse_ranking(line, 2) is None and "once" in capsys.readouterr().out


def test_a_person_can_label_and_the_reward_model_reads_it(tokenizer):
    gpt.save_checkpoint("sft.pt", small_gpt(tokenizer.vocab_size, 64), tokenizer, {})
    Path("prompts.txt").write_text("Tell me a story.\n\nWhat now?\n")
    done = run(HERE / "rlhf.py", "label", "--model", "sft.pt", "--prompts", "prompts.txt", "--answers", 3,
               "--max-response", 8, stdin="nonsense\n3 1=2\n\n")
    assert done.returncode == 0 and "name every answer" in done.stdout, done.stderr
    (comparison,) = data.load_comparisons("comparisons.jsonl")
    assert comparison.ranks == [1, 1, 0] and comparison.messages[0]["content"] == "Tell me a story."


# ------------------------------------------------------------------------------ SFT [InstructGPT §3.5, C.1]


def test_sft_learns_from_the_response_only(tokenizer):
    model = small_gpt(vocab_size=tokenizer.vocab_size, block_size=32)
    ids, mask = data.render_conversation(tokenizer, HELLO)
    loss = rlhf.sft_loss(model, tokenizer, [(ids, mask), (ids + [5] * 3, mask + [0] * 3)])
    logits = model(torch.tensor([ids]))[0][0].log_softmax(-1)
    by_hand = [-logits[t - 1, ids[t]].item() for t in range(len(ids)) if mask[t]]
    assert loss.item() == pytest.approx(np.mean(by_hand), abs=1e-5)
    # gradient reaches the states that predict an assistant's token, and no others
    gradients = []
    model.ln_f.register_full_backward_hook(lambda module, into, out: gradients.append(out[0]))
    rlhf.sft_loss(model, tokenizer, [(ids, mask)]).backward()
    assert (gradients[0][0].abs().sum(-1) > 0).tolist() == [bool(m) for m in mask[1:]]


def test_too_long_conversations_lose_their_oldest_turns(tokenizer):
    messages = [{"role": "user", "content": "old " * 30}, {"role": "assistant", "content": "old"}, *HELLO]
    ids, mask = rlhf.fit(tokenizer, messages, 20)
    assert len(ids) <= 20 and tokenizer.decode(i for i, m in zip(ids, mask) if m) == " hello you<|end|>"
    ids = rlhf.prompt_ids(tokenizer, [{"role": "user", "content": "word " * 90}], 16)
    assert len(ids) == 16 and ids[-1] == tokenizer.special["<|assistant|>"]


# --------------------------------------------------------------- the reward model [InstructGPT eq. (1), C.2]


def test_k_2_is_the_pairwise_loss():
    rewards = torch.randn(7, 2)
    assert rlhf.ranking_loss(rewards) == pytest.approx(
        -F.logsigmoid(rewards[:, 0] - rewards[:, 1]).mean().item())


def test_ranking_loss_is_the_mean_over_explicit_pairs_and_over_prompts():
    rewards, ranks = torch.randn(3, 5), torch.tensor([[2, 0, 1, 1, 0], [4, 3, 2, 1, 0], [0, 1, -1, -1, -1]])
    expected = []
    for row, order in zip(rewards.tolist(), ranks.tolist()):
        pairs = [(a, b) for i, a in enumerate(row) for j, b in enumerate(row) if 0 <= order[i] < order[j]]
        expected.append(np.mean([math.log1p(math.exp(-(a - b))) for a, b in pairs]))
    assert rlhf.ranking_loss(rewards, ranks).item() == pytest.approx(np.mean(expected), rel=1e-5)
    assert rlhf.ranking_loss(rewards + 100, ranks).item() == pytest.approx(np.mean(expected), rel=1e-4)
    assert rlhf.ranking_loss(torch.randn(2, 3), torch.zeros(2, 3)).item() == 0.0       # nothing but ties


def test_ranking_loss_survives_huge_margins():
    rewards = torch.tensor([[-1e4, 1e4]], requires_grad=True)
    rlhf.ranking_loss(rewards).backward()
    assert torch.isfinite(rewards.grad).all()


def test_reward_is_read_at_the_last_token_and_padding_changes_nothing():
    model = rlhf.RewardModel(small_gpt()).eval()
    ids, last = torch.randint(50, (3, 10)), torch.tensor([4, 9, 7])
    scores = model(ids, last)
    padded = F.pad(ids, (0, 5), value=3)
    for b, n in enumerate(last):
        padded[b, n + 1:] = 11
        alone = model(ids[b:b + 1, :n + 1], last[b:b + 1])
        assert torch.allclose(scores[b], alone, atol=1e-6)
    assert torch.allclose(model(padded, last), scores, atol=1e-6)


def test_demonstrations_score_zero_on_average(tokenizer):
    model = rlhf.RewardModel(small_gpt(vocab_size=tokenizer.vocab_size, block_size=32))
    demonstrations = [[HELLO[0], {"role": "assistant", "content": text}]
                      for text in ("yes", "no", "a longer one", "x")]
    rlhf.center_scores(model, tokenizer, demonstrations)
    ids, lengths = rlhf.to_tensors(
        [data.render_conversation(tokenizer, d)[0] for d in demonstrations], 0, "cpu")
    assert model(ids, lengths - 1).mean().item() == pytest.approx(0.0, abs=1e-6)


def test_comparisons_are_scored_in_their_own_places(tokenizer):
    model = rlhf.RewardModel(small_gpt(vocab_size=tokenizer.vocab_size, block_size=32))
    comparisons = [data.Comparison(HELLO[:1], ["a", "bb b", "c"], [1, 0, 2]),
                   data.Comparison(HELLO[:1], ["d", "a"], [0, 0])]
    scores, ranks = rlhf.comparison_scores(model, tokenizer, comparisons)
    assert ranks.tolist() == [[1, 0, 2], [0, 0, -1]]
    assert scores[0, 0].item() == pytest.approx(scores[1, 1].item(), abs=1e-6) != scores[0, 1].item()


def test_the_reward_model_reads_prompt_and_response(tokenizer):
    model = rlhf.RewardModel(small_gpt(vocab_size=tokenizer.vocab_size, block_size=32))
    messages = [[{"role": "user", "content": text}] for text in ("hi", "a longer question")]
    scores, _ = rlhf.comparison_scores(model, tokenizer, [data.Comparison(m, ["yes"], [0]) for m in messages])
    for m, score in zip(messages, scores[:, 0].tolist()):
        ids, _ = data.render_conversation(tokenizer, [*m, {"role": "assistant", "content": "yes"}])
        alone = model(torch.tensor([ids]), torch.tensor([len(ids) - 1])).item()
        assert score == pytest.approx(alone, abs=1e-6)
    assert abs(scores[0, 0] - scores[1, 0]) > 1e-4


def test_the_reward_model_reads_every_comparison_once_with_an_annealed_rate(tokenizer, monkeypatch):
    gpt_ = small_gpt(vocab_size=tokenizer.vocab_size, block_size=32, n_embd=512)
    model = rlhf.RewardModel(gpt_)
    assert model.head.weight.std().item() == pytest.approx(1 / math.sqrt(513), rel=0.15)
    assert model.head.bias.item() == 0
    gpt.set_dropout(model.train(), 0.5)                   # must not matter: there is no dropout in this stage
    read, rates, scores, set_lr = [], [], rlhf.comparison_scores, rlhf.set_lr
    monkeypatch.setattr(rlhf, "comparison_scores", lambda model, tokenizer, batch: (
        read.append([c.messages[0]["content"] for c in batch]), scores(model, tokenizer, batch))[1])
    monkeypatch.setattr(rlhf, "set_lr", lambda optimizers, share: (
        rates.append(share), set_lr(optimizers, share)))
    comparisons = [data.Comparison([{"role": "user", "content": str(i)}], ["a", "b", "c"], [1, 0, 2])
                   for i in range(50)]
    demonstrations = [[HELLO[0], {"role": "assistant", "content": "c"}]]
    losses = [rlhf.train_reward_model(copy.deepcopy(model), tokenizer, comparisons, demonstrations,
                                      rlhf.RewardConfig(batch_size=4), 0, Path("rm.jsonl"))["rm_loss"]
              for _ in range(2)]
    assert losses[0] == losses[1]
    assert [len(batch) for batch in read[:13]] == [4] * 12 + [2]
    assert sorted(sum(read[:13], [])) == sorted(str(i) for i in range(50))
    assert rates[0] == 1.0 and rates[12] < 0.12 and rates[:13] == sorted(rates[:13], reverse=True)
    rlhf.train_reward_model(model, tokenizer, comparisons, demonstrations, rlhf.RewardConfig(), 0,
                            Path("rm.jsonl"))
    shifted, _ = scores(model, tokenizer, [data.Comparison(HELLO[:1], ["c"], [0])])
    assert shifted.item() == pytest.approx(0.0, abs=1e-5)              # the demonstration

# ------------------------------------------------------------------------------------ PPO [InstructGPT C.4]


def toy_rollout(policy, tokenizer, B=6, **options):
    config = rlhf.PPOConfig(max_response=6, batch_size=B, minibatches=2, **options)
    torch.manual_seed(5)
    reward_model = rlhf.RewardModel(policy).eval()
    value_model = rlhf.RewardModel(policy).eval()
    reference = small_gpt(policy.config.vocab_size, policy.config.block_size).eval()
    prompts = [[{"role": "user", "content": "word " * (i + 1)}] for i in range(B)]
    rollout = rlhf.roll_out(policy, reference, reward_model, value_model, tokenizer, prompts, config,
                            torch.Generator().manual_seed(0))
    return rollout, reward_model, value_model, reference, config


@pytest.fixture
def policy(tokenizer):
    """A policy that often says <|end|>."""
    model = small_gpt(vocab_size=tokenizer.vocab_size, block_size=32).eval()
    with torch.no_grad():
        model.ln_f.bias.copy_(towards(model.wte.weight[tokenizer.end]))
    return model


def towards(row):
    """What to add to the last state so that this row's logit grows by 6:
    then it is said about every sixth time."""
    return row * 6 / row.square().sum()


def test_responses_stand_right_behind_their_prompts():
    prompts, lengths = torch.tensor([[1, 2, 3], [4, 0, 0]]), torch.tensor([3, 1])
    responses = torch.tensor([[7, 8, 0], [9, 0, 0]])
    ids = rlhf.join_responses(prompts, lengths, torch.tensor([5, 2]), responses, pad=0)
    assert ids.tolist() == [[1, 2, 3, 7, 8], [4, 9, 0, 0, 0]]


def test_response_logprobs_equal_the_whole_softmax(tokenizer, policy):
    rollout, *_ = toy_rollout(policy, tokenizer)
    for b in range(6):
        n, r = rollout.lengths[b].item(), int(rollout.mask[b].sum())
        log_p = policy(rollout.ids[b:b + 1, :n + r])[0][0].log_softmax(-1)
        for t in range(r):
            assert rollout.logprobs[b, t].item() == pytest.approx(
                log_p[n + t - 1, rollout.responses[b, t]].item(), abs=1e-5)
            assert rollout.ids[b, n + t] == rollout.responses[b, t]


def test_before_the_first_step_the_ratio_is_one_and_the_kl_to_itself_zero(tokenizer, policy):
    rollout, *_ = toy_rollout(policy, tokenizer)
    for rows in (slice(None), torch.tensor([4, 1])):                    # whole batch and a shuffled minibatch
        batch = rollout[rows]
        logprobs = rlhf.response_logprobs(policy, batch.ids, batch.lengths, batch.ends, batch.responses)
        _, info = rlhf.policy_loss(logprobs, batch.logprobs, batch.advantages, batch.mask)
        assert info["ratio"] == pytest.approx(1.0, abs=1e-5) and info["clipfrac"] == 0.0
        assert info["approx_kl"] == pytest.approx(0.0, abs=1e-5)
    own = rlhf.response_logprobs(policy, rollout.ids, rollout.lengths, rollout.ends, rollout.responses)
    assert torch.equal(own, rollout.logprobs)                           # exactly


def test_rollouts_end_where_they_end(tokenizer, policy):
    rollout, reward_model, *_ = toy_rollout(policy, tokenizer, B=40)
    assert 0 < rollout.ended.float().mean() < 1                         # both kinds occur
    for b in range(40):
        row = rollout.responses[b].tolist()
        n = row.index(tokenizer.end) + 1 if tokenizer.end in row else len(row)
        assert rollout.mask[b].tolist() == [1.0] * n + [0.0] * (len(row) - n)
        assert rollout.ended[b].item() == (tokenizer.end in row)
        ids = rollout.ids[b:b + 1, :rollout.lengths[b] + n]              # what is scored: prompt and answer
        score = reward_model(ids, torch.tensor([ids.size(1) - 1])).item()
        expected = score if rollout.ended[b] else min(score, -1)
        assert rollout.scores[b].item() == pytest.approx(expected, abs=1e-5)
    advantages, returns = rlhf.compute_gae(rollout.rewards, rollout.values, rollout.mask, gamma=1.0, lam=0.95)
    assert torch.equal(advantages, rollout.advantages) and torch.equal(returns, rollout.returns)
    assert not rollout.rewards.requires_grad


def test_the_score_lands_on_one_index_and_rewards_sum_to_score_minus_kl():
    mask = torch.tensor([[1.0, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    scores, logprobs, ref = torch.tensor([5.0, -2.0, 1.0]), torch.randn(3, 4), torch.randn(3, 4)
    rewards = rlhf.token_rewards(scores, logprobs, ref, mask, kl_coef=0.1)
    without = rlhf.token_rewards(torch.zeros(3), logprobs, ref, mask, kl_coef=0.1)
    assert ((rewards - without).abs() > 1e-6).nonzero().tolist() == [[0, 2], [1, 0], [2, 3]]
    assert torch.allclose(rewards.sum(1), scores - 0.1 * ((logprobs - ref) * mask).sum(1))
    assert torch.allclose(rlhf.token_rewards(scores, ref, ref, mask, 0.1).sum(1), scores)
    assert not rlhf.token_rewards(scores, logprobs.requires_grad_(), ref, mask, 0.1).requires_grad


def test_gae_equals_its_definition():
    rewards, values = torch.randn(4, 7), torch.randn(4, 7)
    lengths = [7, 1, 4, 6]
    mask = torch.tensor([[float(t < n) for t in range(7)] for n in lengths])
    rewards = rewards * mask
    advantages, returns = rlhf.compute_gae(rewards, values, mask, gamma=0.9, lam=0.8)
    for b, n in enumerate(lengths):
        r, v = rewards[b].tolist(), values[b, :n].tolist() + [0.0]
        deltas = [r[t] + 0.9 * v[t + 1] - v[t] for t in range(n)]
        for t in range(7):
            expected = sum((0.9 * 0.8) ** (l - t) * deltas[l] for l in range(t, n)) if t < n else 0.0
            assert advantages[b, t].item() == pytest.approx(expected, abs=1e-5)
    assert torch.allclose(returns, advantages + values * mask)
    monte_carlo, _ = rlhf.compute_gae(rewards, values, mask, gamma=1.0, lam=1.0)       # = return - V
    to_go = rewards.flip(1).cumsum(1).flip(1)
    assert torch.allclose(monte_carlo, (to_go - values) * mask, atol=1e-5)


def test_padded_places_change_no_loss_and_no_statistic():
    mask = torch.tensor([[1.0, 1, 0, 0], [1, 1, 1, 0]])
    new, old, adv = torch.randn(2, 4), torch.randn(2, 4), torch.randn(2, 4)
    noise = 100 * torch.rand(2, 4) * (1 - mask)
    for function in (lambda a, b, c: rlhf.policy_loss(a, b, rlhf.whiten(c, mask), mask)[0],
                     lambda a, b, c: rlhf.value_loss(a, b, c, mask),
                     lambda a, b, c: rlhf.masked_mean(a, mask)):
        assert function(new, old, adv).item() == pytest.approx(
            function(new + noise, old - noise, adv + noise).item())
    info, noisy = (rlhf.policy_loss(new, old, adv, mask)[1],
                   rlhf.policy_loss(new + noise, old, adv - noise, mask)[1])
    assert info == pytest.approx(noisy)
    white = rlhf.whiten(adv, mask)
    assert rlhf.masked_mean(white, mask).item() == pytest.approx(0, abs=1e-6)
    assert rlhf.masked_mean(white ** 2, mask).item() == pytest.approx(1, abs=1e-4)


def test_tokens_after_the_end_get_no_gradient():
    new, mask = torch.randn(2, 4, requires_grad=True), torch.tensor([[1.0, 1, 0, 0], [1, 1, 1, 0]])
    rlhf.policy_loss(new, new.detach(), torch.randn(2, 4), mask)[0].backward()
    assert (new.grad[mask == 0] == 0).all() and (new.grad[mask == 1] != 0).all()


def test_clipping_stops_the_gradient_outside_and_only_there():
    log_ratio = torch.tensor([[0.5, 0.5, -0.5, -0.5, 0.1]], requires_grad=True)
    advantages = torch.tensor([[1.0, -1.0, 1.0, -1.0, 1.0]])
    loss, info = rlhf.policy_loss(log_ratio, torch.zeros(1, 5), advantages, torch.ones(1, 5))
    loss.backward()
    # too far up with a good advantage, too far down with a bad one: no further push. The others still learn.
    assert (log_ratio.grad[0] != 0).tolist() == [False, True, True, False, True]
    assert info["clipfrac"] == pytest.approx(2 / 5)
    by_hand = [1.2, -math.exp(0.5), math.exp(-0.5), -0.8, math.exp(0.1)]
    assert loss.item() == pytest.approx(-np.mean(by_hand), abs=1e-6)
    mask = torch.tensor([[1.0, 1, 1, 0, 0]])                      # a mean over response tokens, not places
    loss, _ = rlhf.policy_loss(log_ratio, torch.zeros(1, 5), advantages, mask)
    assert loss.item() == pytest.approx(-np.mean(by_hand[:3]), abs=1e-6)


def test_value_loss_takes_the_worse_of_clipped_and_not():
    values, old, returns = torch.tensor([[1.0, 0.1]]), torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    # first: clipped to 0.2, error 0.8 is worse than 0; second: inside the range
    assert rlhf.value_loss(values, old, returns, torch.ones(1, 2)).item() == pytest.approx(
        0.5 * (0.64 + 0.01) / 2)


def test_approx_kl_estimates_the_exact_kl():
    logits_old, logits_new = torch.randn(50), torch.randn(50) * 0.3
    logits_new = logits_old + logits_new
    old, new = logits_old.log_softmax(0), logits_new.log_softmax(0)
    exact = (old.exp() * (old - new)).sum().item()
    tokens = torch.multinomial(old.exp(), 40_000, replacement=True,
                               generator=torch.Generator().manual_seed(0))
    _, info = rlhf.policy_loss(new[tokens][None], old[tokens][None],
                               torch.zeros(1, 40_000), torch.ones(1, 40_000))
    assert info["approx_kl"] == pytest.approx(exact, rel=0.1)


def ppo_run(tokenizer, policy, ptx_coef, iterations=2, **options):
    policy = copy.deepcopy(policy)
    torch.manual_seed(3)
    reward_model = rlhf.RewardModel(policy)
    config = rlhf.PPOConfig(**{"iterations": iterations, "batch_size": 8, "minibatches": 2, "max_response": 6,
                               "ptx_coef": ptx_coef, **options})
    ptx = data.Batches(np.arange(2000, dtype=np.uint16) % 300, 2, 16, 0) if ptx_coef is not None else None
    prompts = lambda n: [[{"role": "user", "content": "word " * (1 + i % 3)}] for i in range(n)]
    rlhf.train_ppo(policy, reward_model, tokenizer, prompts, config, 0, Path("ppo.jsonl"), ptx)
    return policy


def test_gamma_zero_reproduces_ppo_bit_for_bit(tokenizer, policy):
    plain, zero, ptx = (ppo_run(tokenizer, policy, gamma) for gamma in (None, 0.0, 1.0))
    assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), zero.parameters()))
    assert not all(torch.equal(p, q) for p, q in zip(plain.parameters(), ptx.parameters()))
    assert not all(torch.equal(p, q) for p, q in zip(plain.parameters(), policy.parameters()))


def test_one_optimizer_step_holds_both_gradients(tokenizer, policy):
    rollout, _, value_model, _, config = toy_rollout(policy, tokenizer, ptx_coef=3.0)
    stream = np.arange(2000, dtype=np.uint16) % 300
    collected = []

    class Recorder(torch.optim.SGD):
        def step(self):
            collected.append([p.grad.clone() for g in self.param_groups for p in g["params"]])

    def gradient(ptx):
        recorder = Recorder(policy.parameters(), lr=0.0)
        torch.nn.utils.clip_grad_norm_, clip = (lambda *a: None), torch.nn.utils.clip_grad_norm_
        try:
            rlhf.ppo_step(policy, value_model, [recorder], [Recorder(value_model.parameters(), lr=0.0)],
                          rollout, config, ptx)
        finally:
            torch.nn.utils.clip_grad_norm_ = clip
        assert all(p.grad is None for p in policy.parameters())         # nothing is left for the next step
        assert len(collected) == 2                                      # one step of each network
        return collected.pop(0), collected.pop()

    both, _ = gradient(data.Batches(stream, 2, 16, 0))
    ppo_only, _ = gradient(None)
    x, y = (torch.from_numpy(a) for a in data.Batches(stream, 2, 16, 0).next())
    lm = torch.autograd.grad(policy(x, y)[1], list(policy.parameters()))
    for b, p, g in zip(both, ppo_only, lm):
        assert torch.allclose(b, p + 3.0 * g, atol=1e-5)


def test_the_policy_ends_as_its_moving_average(tokenizer, policy):
    frozen = ppo_run(tokenizer, policy, None, ema_decay=1.0)            # the average never moves
    assert all(torch.equal(p, q) for p, q in zip(frozen.parameters(), policy.parameters()))
    after, average = (ppo_run(tokenizer, policy, None, iterations=1, minibatches=1, ema_decay=decay)
                      for decay in (0.0, 0.9))                           # after one step
    for old, new, mean in zip(policy.parameters(), after.parameters(), average.parameters()):
        assert torch.allclose(mean, 0.9 * old + 0.1 * new, atol=1e-6)


def test_dropout_stays_out_of_ppo(tokenizer, policy):
    gpt.set_dropout(policy.train(), 0.5)
    ppo_run(tokenizer, policy, None, iterations=1, lr=0.0)
    row = json.loads(open("ppo.jsonl").readlines()[1])
    assert row["ratio"] == 1 and row["approx_kl"] == 0 and row["clipfrac"] == 0


def test_every_batch_is_shuffled_into_minibatches_and_adam_is_the_papers(tokenizer, policy, monkeypatch):
    steps, ppo_step = [], rlhf.ppo_step

    def recorder(policy, value_model, policy_optimizers, value_optimizers, batch, *rest):
        rate = policy_optimizers[0].param_groups[0]["lr"]
        steps.append((batch.logprobs[:, 0].tolist(), policy_optimizers + value_optimizers, rate))
        return ppo_step(policy, value_model, policy_optimizers, value_optimizers, batch, *rest)

    monkeypatch.setattr(rlhf, "ppo_step", recorder)
    whole, roll_out = [], rlhf.roll_out
    monkeypatch.setattr(rlhf, "roll_out", lambda *a: (whole.append(roll_out(*a)), whole[-1])[1])
    ppo_run(tokenizer, policy, None, iterations=12, batch_size=16, minibatches=4, lr=1e-3)
    assert len(steps) == 12 * 4                                          # one inner epoch
    for number, rollout in enumerate(whole):
        parts = [part for part, *_ in steps[4 * number:4 * number + 4]]
        assert [len(part) for part in parts] == [4] * 4
        assert sorted(sum(parts, [])) == sorted(rollout.logprobs[:, 0].tolist())
        assert sum(parts, []) != rollout.logprobs[:, 0].tolist()
    for optimizer in steps[0][1]:
        assert all(g["eps"] == 1e-5 and g["betas"] == (0.9, 0.95) for g in optimizer.param_groups)
    rates = [rate for *_, rate in steps[::4]]                            # a tenth, up over ten, then constant
    assert rates[0] == pytest.approx(1e-4) and rates[5] == pytest.approx(5.5e-4)
    assert rates[10] == rates[11] == pytest.approx(1e-3)


def test_a_step_whitens_the_advantages_and_clips_the_values(tokenizer, policy):
    rollout, _, value_model, _, config = toy_rollout(policy, tokenizer)

    def step(batch):
        model = copy.deepcopy(policy)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        info = rlhf.ppo_step(model, copy.deepcopy(value_model), [optimizer], [], batch, config, None)
        return info, torch.cat([p.flatten() for p in model.parameters()])

    moved = dataclasses.replace(rollout, advantages=7 * rollout.advantages + 3)
    assert torch.allclose(step(rollout)[1], step(moved)[1], atol=1e-6)   # only differences in a batch count
    far = dataclasses.replace(rollout, values=rollout.values + 10)
    expected = rlhf.value_loss(rollout.values, far.values, rollout.returns, rollout.mask,
                               config.cliprange_value)
    assert step(far)[0]["value_loss"] == pytest.approx(expected.item(), rel=1e-4)


def test_ppo_raises_the_reward(tokenizer, policy):
    """Reward = the share of one letter's token. The mean over the last iterations must beat the mean
    over the first by 0.25; without learning both are means of 5 x 32 scores in [0, 1], so sigma <= 0.06
    and a false alarm needs more than 4 sigma of their difference: odds below 1 in 10,000. Learning
    reaches + 0.5 or more."""
    token = tokenizer.encode("a")[0]

    class LikesA(rlhf.RewardModel):
        def forward(self, ids, last, lengths=None):
            behind = (ids == tokenizer.special["<|assistant|>"]).cumsum(1) > 0
            said = behind & (torch.arange(ids.size(1)) <= last[:, None])
            return (said & (ids == token)).sum(1) / said.sum(1)

    torch.manual_seed(3)
    with torch.no_grad():
        policy.ln_f.bias.add_(towards(policy.wte.weight[token]))
    config = rlhf.PPOConfig(iterations=25, batch_size=32, minibatches=4, max_response=6, kl_coef=0.0,
                            lr=1e-3, value_lr=1e-3, unfinished_score=0.0)
    prompts = lambda n: [[{"role": "user", "content": "word"}]] * n
    reward_model = LikesA(policy)
    torch.nn.init.zeros_(reward_model.head.weight)      # so that values start at 0, not at +-20
    rlhf.train_ppo(policy, reward_model, tokenizer, prompts, config, 0, Path("ppo.jsonl"))
    scores = [json.loads(line)["score"] for line in open("ppo.jsonl").readlines()[1:]]
    assert np.mean(scores[-5:]) > np.mean(scores[:5]) + 0.25


def test_without_matplotlib_the_table_stands_and_the_way_to_the_figure_is_told(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    rlhf.draw([{"model": "GPT", "win": 0.5}], Path("runs"))
    assert "pip install matplotlib" in capsys.readouterr().out


def test_win_rate_counts_ties_as_half():
    assert rlhf.win_rate([1, 2, 3, 0], [0, 2, 1, 1]) == {"win": 0.625, "won": 2, "lost": 1}


# ------------------------------------------------------------------------------- the whole, and its commands


def run(*arguments, stdin="", timeout=300, **options):
    return subprocess.run([sys.executable, *map(str, arguments)], input=stdin, capture_output=True,
                          text=True, timeout=timeout, env={**os.environ, "PYTHONPATH": str(HERE)}, **options)


def test_the_whole_of_instructgpt_runs_is_reused_and_chats():
    command = (HERE / "rlhf.py", "--size", "24k", "--pretrain-steps", 12, "--sft-epochs", 1,
               "--comparison-prompts", 24, "--iterations", 2, "--test-prompts", 24)
    done = run(*command)
    assert done.returncode == 0, done.stderr
    rows = {row["model"]: row for row in json.loads(Path("runs/instructgpt/table.json").read_text())}
    assert list(rows) == ["GPT", "GPT prompted", "SFT", "PPO round one", "PPO", "PPO-ptx"]
    assert all(math.isfinite(v) for row in rows.values() for k, v in row.items() if k != "model")
    assert rows["SFT"]["kl"] == 0.0                                     # against itself
    again = run(*command)
    assert again.returncode == 0 and again.stdout.count("reusing") == 7
    assert json.loads(Path("runs/instructgpt/table.json").read_text()) == list(rows.values())
    talk = run(HERE / "rlhf.py", "chat",
               stdin="hello <|end|>\n/system be brief\n\nbye\n/reset\n" + "long " * 300 + "\n")
    assert talk.returncode == 0 and talk.stdout.count("you>") == 7 and not talk.stderr


def test_gpt1_runs_and_computes_nothing_twice():
    command = (HERE / "gpt.py", "gpt1", "--steps", 2, "--cases", 4, "--seeds", 1)
    done = run(*command)
    assert done.returncode == 0, done.stderr
    rows = {row["model"]: row for row in json.loads(Path("runs/gpt1/table.json").read_text())}
    assert list(rows) == ["pretrained", "no auxiliary LM", "LSTM", "from scratch", "embeddings only",
                          "1 of 3 layers", "2 of 3 layers"]
    assert rows["pretrained"]["Table 5"] == 0.747 and set(data.GPT1_TASKS) < set(rows["LSTM"])
    stamp = Path("runs/gpt1/finetune.json").stat().st_mtime_ns
    again = run(*command)
    assert again.stdout.count("reusing") == 2 and Path("runs/gpt1/finetune.json").stat().st_mtime_ns == stamp
    assert json.loads(Path("runs/gpt1/table.json").read_text()) == list(rows.values())


def test_gpt1_on_your_own_labeled_lines():
    for name, count in (("train", 40), ("test", 10)):
        Path(f"{name}.tsv").write_text("".join(f"a {('good', 'bad')[i % 2]} film {i}\t{i % 2}\n"
                                               for i in range(count)))
    Path("text.txt").write_text("some text about a good or a bad film. " * 200)
    command = (HERE / "gpt.py", "gpt1", "--train", "train.tsv", "--data", "text.txt", "--steps", 2,
               "--seeds", 1)
    done = run(*command, "--test", "test.tsv")
    assert done.returncode == 0, done.stderr
    assert "own" in json.loads(Path("runs/gpt1/table.json").read_text())[0]
    alone = run(*command)
    assert alone.returncode == 2 and alone.stderr == "error: --train and --test belong together\n"


def test_gpt2_runs():
    done = run(HERE / "gpt.py", "gpt2", "--steps", 2, "--cases", 3)
    assert done.returncode == 0, done.stderr
    rows = json.loads(Path("runs/gpt2/table.json").read_text())
    assert [row["task"] for row in rows] == list(gpt.GPT2_TABLE)
    assert all(math.isfinite(row[size]) for row in rows for size in gpt.OUR_SIZES)
    assert "NOT the same" not in done.stdout and done.stdout.count("the same again") == 6


def test_gpt3_runs_and_trains_nothing_twice():
    command = (HERE / "gpt.py", "gpt3", "--steps", 2, "--seeds", 1, "--cases", 4, "--task-steps", 2,
               "--pages", 2000, "--data-steps", 3)
    done = run(*command)
    assert done.returncode == 0, done.stderr
    rows = json.loads(Path("runs/gpt3/table.json").read_text())
    assert len(rows) == 9 and all(f"K = {K}" in row for row in rows for K in gpt.SHOTS)
    losses = {row["text"]: row for row in json.loads(Path("runs/gpt3/losses.json").read_text())}
    assert list(losses) == ["raw", "cleaned", "mixture"]
    assert [row["step"] for row in json.loads(Path("runs/gpt3/pipeline.json").read_text())] == [
        "quality", "duplicates", "contamination"]
    assert run(*command).stdout.count("reusing") == 3 + 1 + 1 + 2 + 3


def test_your_own_reward_and_your_own_base_model(tokenizer):
    """A GPT-2 folder goes through SFT and PPO on a reward that is a function; two PPO steps."""
    gpt.export_pretrained(small_gpt(tokenizer.vocab_size, 64), tokenizer, "folder")
    Path("reward.py").write_text("def short(prompt, response):\n    return -len(response)\n")
    command = (HERE / "rlhf.py", "--init", "folder", "--reward", "reward.py:short", "--iterations", 2,
               "--sft-epochs", 1, "--test-prompts", 20, "--block-size", 48, "--max-response", 12)
    done = run(*command, "--show")
    assert done.returncode == 0, done.stderr
    rows = {row["model"]: row for row in json.loads(Path("runs/own/table.json").read_text())}
    assert list(rows) == ["GPT", "GPT prompted", "SFT", "PPO", "PPO-ptx"] and rows["PPO"]["score"] < 0
    assert "advantage" in done.stdout and "context 48" in done.stdout
    assert run(*command).stdout.count("reusing") == 3
    Path("reward.py").write_text("def short(prompt, response):\n    return 0\n")        # another reward
    assert run(*command).stdout.count("reusing") == 1
    for wrong, message in (("reward.py:long", "no function"), ("none.py:f", "no file"), ("f", "FILE.py")):
        bad = run(*command[:3], "--reward", wrong, "--name", "bad", "--sft-epochs", 1)
        assert bad.returncode == 2 and message in bad.stderr


def test_exact_runs():
    done = run(HERE / "rlhf.py", "exact", "--tokens", 1, "--iterations", 2)
    assert done.returncode == 0, done.stderr
    rows = json.loads(Path("runs/exact/table.json").read_text())
    assert all(row["objective, PPO"] <= row["objective, exact"] + 1e-6 for row in rows)
    kls = [row["KL, exact"] for row in rows]
    assert kls == sorted(kls, reverse=True) and [row["beta"] for row in rows] == [0.25, 0.5, 1, 2, 4]
    best = json.loads(Path("runs/exact/best_of_n.json").read_text())
    assert all(row["KL"] <= row["log n - (n-1)/n"] + 1e-9 for row in best) and best[0]["best of"] == 1


def test_instructgpt_in_depth_and_overoptimization_run():
    settings = rlhf.InstructGPTSettings(size="24k", pretrain_steps=2, sft_epochs=1, comparison_prompts=24,
                                        iterations=1, test_prompts=16)
    run_ = rlhf.Pipeline(settings)
    run_.train_sft()
    with open("runs/instructgpt/settings.json", "w") as file:
        json.dump(dataclasses.asdict(settings), file)
    del run_.task.demonstrations[20:]
    chats = {"SFT": run_.sft, "PPO": run_.sft, "PPO-ptx": run_.sft}
    rlhf.in_depth(run_, chats, rlhf.RewardModel(run_.sft))
    tables = {file.stem: json.loads(file.read_text()) for file in Path("runs/instructgpt").glob("*.json")}
    assert [row["gamma"] for row in tables["tax"]] == [0, 0.3, 1, 3, 10, 30, 100, 0, 0, 0]
    assert [row["model"] for row in tables["unseen"]] == ["GPT", "GPT, plain text", "SFT", "PPO", "PPO-ptx"]
    lengths = {name: len(tables[name]) for name in ("sizes", "folds", "batching", "epochs", "memory")}
    assert lengths == {"sizes": 11, "folds": 7, "batching": 6, "epochs": 5, "memory": 3}
    run_.task.compared, run_.task.compared_test = [data.Comparison(
        [{"role": "user", "content": f"say {i // 2}"}], ["yes", "no"], [0, 1]) for i in range(20)], []
    rows = rlhf.own_folds(run_)
    assert [row["fold"] for row in rows] == ["0", "1", "2", "3", "4", "mean", "standard error"]
    assert rows[5]["accuracy"] == pytest.approx(np.mean([row["accuracy"] for row in rows[:5]]))
    command = (HERE / "rlhf.py", "overoptimize", "--prompts", 32, "--iterations", 2, "--answers", 4)
    before = Path("runs/instructgpt/settings.json").read_text()
    done = run(*command, "--test-prompts", 17)                      # takes the SFT model of the run above
    assert done.returncode == 0 and done.stdout.count("reusing") == 2, done.stderr
    assert Path("runs/instructgpt/settings.json").read_text() == before
    Path("runs/instructgpt/settings.json").write_text('{"unheard": 1}')
    assert run(*command).returncode == 2
    rows = json.loads(Path("runs/overoptimize/table.json").read_text())
    assert [(row["prompts"], row["method"]) for row in rows[::5]] == [(2, "best of n"), (32, "PPO")]


def test_your_own_demonstrations_and_comparisons():
    with open("d.jsonl", "w") as d, open("c.jsonl", "w") as c:
        for i in range(20):
            d.write(json.dumps({"instruction": f"Say {i} in a long way",
                                "output": f"the number {i} " * 60}) + "\n")
            c.write(json.dumps({"prompt": f"Say {i}", "chosen": f"{i}, of course",
                                "rejected": "no " * 200}) + "\n")
    done = run(HERE / "rlhf.py", "--demonstrations", "d.jsonl", "--comparisons", "c.jsonl",
               "--pretrain-steps", 3, "--sft-epochs", 1, "--iterations", 1)
    assert done.returncode == 0, done.stderr
    assert "20 demonstrated answers are longer than --max-response 32" in done.stdout
    rows = json.loads(Path("runs/own/table.json").read_text())
    assert [row["model"] for row in rows] == ["SFT", "PPO", "PPO-ptx"]
    other = run(HERE / "rlhf.py", "overoptimize", "--base", "own")
    assert other.returncode == 2 and "your own data" in other.stderr


def test_your_own_prompts_are_split_before_anything_learns_from_them(capsys):
    with open("c.jsonl", "w") as c:
        for i in range(40):
            c.write(json.dumps({"prompt": f"Say {i % 10}", "chosen": f"{i}", "rejected": "no"}) + "\n")
    task = rlhf.FileTask(None, "c.jsonl", Path("."), 0)
    task.leave_out_long(lambda messages: messages[-1]["content"] != "Say 3")
    test = {i.prompt for i in task.test}
    learned = {m[-1]["content"] for m in (*task.prompts, *(d[:-1] for d in task.demonstrations))}
    assert len(test | learned) == 9 and test and not test & learned and "left out" in capsys.readouterr().out
    assert not any(prompt in Path("text.jsonl").read_text() for prompt in test)
    with pytest.raises(UserError, match="block-size"):
        task.leave_out_long(lambda messages: False)


def test_a_reward_model_lies_on_one_device():
    """Where there is no GPU, the device "meta" shows it as well."""
    assert {p.device.type for p in rlhf.RewardModel(small_gpt().to("meta")).parameters()} == {"meta"}


def test_a_resumed_log_has_every_step_once():
    for done in (0, 20):                                 # stopped at 30, its checkpoint was at 20
        log = gpt.RunLog("log.jsonl", {"a": 1}, 50, done)
        for step in range(done + 10, 60 if done else 40, 10):
            log.row(step, show=False, loss=1.0)
        log.close()
    assert [json.loads(line).get("step") for line in open("log.jsonl")] == [None, 10, 20, 30, 40, 50]


def fails(capsys, commands, *argv):
    """Exit code 2, one line on stderr that starts with error:, no traceback."""
    with pytest.raises(SystemExit) as error:
        data.command_line(commands, next(iter(commands)), list(argv))
    message = capsys.readouterr().err
    assert error.value.code == 2 and message.startswith("error: ") and message.count("\n") == 1, message
    return message


GPT_COMMANDS = {"pretrain": (gpt.PretrainSettings, gpt.pretrain), "gpt1": (gpt.GPT1Settings, gpt.gpt1),
                "gpt2": (gpt.GPT2Settings, gpt.gpt2), "sample": (gpt.SampleSettings, gpt.sample)}
RLHF_COMMANDS = {"instructgpt": (rlhf.InstructGPTSettings, rlhf.instructgpt),
                 "exact": (rlhf.ExactSettings, rlhf.exact), "label": (rlhf.LabelSettings, rlhf.label_by_hand),
                 "chat": (rlhf.ChatSettings, rlhf.chat)}


def test_wrong_input_is_one_clear_line(capsys):
    Path("empty.txt").touch()
    Path("blank.txt").write_text("  \n ")
    Path("binary.bin").write_bytes(bytes(range(256)) * 10)
    Path("short.txt").write_text("too short")
    Path("bad.jsonl").write_text("{")
    Path("text.txt").write_text("some text. " * 500)
    Path("plain.jsonl").write_text('{"txt": "x"}')
    Path("file").touch()
    for source, word in [("missing.txt", "missing.txt"), ("empty.txt", "no text"), ("blank.txt", "no text"),
                         ("binary.bin", "not text"), ("short.txt", "tokens"),
                         ("bad.jsonl", "bad.jsonl:1"), ("plain.jsonl", "plain.jsonl:1")]:
        assert word in fails(capsys, GPT_COMMANDS, "--data", source, "--steps", "1")
    assert "--stpes" in fails(capsys, GPT_COMMANDS, "--stpes", "3")
    assert "invalid" in fails(capsys, GPT_COMMANDS, "--steps", "many")
    assert "invalid choice" in fails(capsys, GPT_COMMANDS, "pretarin")
    assert "at least 1" in fails(capsys, GPT_COMMANDS, "--steps", "0")
    assert "n_head" in fails(capsys, GPT_COMMANDS, "--n-head", "3", "--data", "text.txt", "--steps", "1")
    assert "no checkpoint" in fails(capsys, GPT_COMMANDS, "sample")
    assert "not a checkpoint" in fails(capsys, GPT_COMMANDS, "sample", "--model", "text.txt")
    assert "file/x" in fails(capsys, GPT_COMMANDS, "--data", "text.txt", "--steps", "1",
                             "--name", "../file/x")
    assert "--comparisons" in fails(capsys, RLHF_COMMANDS, "--demonstrations", "bad.jsonl")
    assert "bad.jsonl:1" in fails(capsys, RLHF_COMMANDS, "--comparisons", "bad.jsonl")
    assert "no checkpoint" in fails(capsys, RLHF_COMMANDS, "chat")
    gpt.save_checkpoint("old.pt", small_gpt(257), Tokenizer(BYTES | {b"ab": 256}), {})
    for command in ("chat", "label"):
        assert "cannot chat" in fails(capsys, RLHF_COMMANDS, command, "--model", "old.pt")
    assert "too many to count" in fails(capsys, RLHF_COMMANDS, "exact", "--tokens", "5")
    assert "leave --size out" in fails(capsys, RLHF_COMMANDS, "--full", "--size", "180k")
    for option in ("--seed=-1", "--dropout=2", "--block-size=1", "--lr=-1"):
        assert option.split("=")[0] in fails(capsys, GPT_COMMANDS, option)
    for option in ("--tokens=0", "--samples=0", "--top-k=0", "--temperature=-1"):
        assert option.split("=")[0] in fails(capsys, GPT_COMMANDS, "sample", option)
    for option in ("--sft-epochs=0", "--iterations=0", "--pretrain-steps=0", "--max-response=128",
                   "--test-prompts=15"):
        assert option.split("=")[0] in fails(capsys, RLHF_COMMANDS, option)


@pytest.mark.parametrize("record", [
    {"prompt": "x", "responses": []}, {"prompt": "x", "responses": "ab"}, {"prompt": "x", "chosen": "a"},
    {"prompt": 3, "responses": ["a", "b"]}, {"prompt": "x", "responses": ["a", "b"], "ranks": 3},
    {"prompt": "x", "responses": ["a", "b"], "ranks": [0, -1]},
    {"prompt": "x", "responses": ["a", "b"], "ranks": [0.2, 0.7]},
    {"chosen": "Assistant: a", "rejected": "Assistant: b"}, {"instruction": "x", "instances": ["a"]},
    {"instruction": "x", "instances": 3}, {"messages": "x"}, ["x"], 3])
def test_a_record_of_another_shape_is_one_clear_line(record, capsys):
    Path("x.jsonl").write_text(json.dumps(record))
    for load in (data.load_demonstrations, data.load_comparisons):
        with pytest.raises(UserError, match="x.jsonl"):
            load("x.jsonl")


def test_a_damaged_gzip_is_one_clear_line(capsys):
    whole = gzip.compress(os.urandom(10_000).hex().encode())
    for name in ("cut.txt.gz", "cut.jsonl.gz"):
        Path(name).write_bytes(whole[:5000])
        fails(capsys, GPT_COMMANDS, "--data", name)


def test_a_checkpoint_from_another_shape_is_not_mixed_in(capsys):
    Path("text.txt").write_text("some text to learn from. " * 500)
    common = ["--data", "text.txt", "--vocab-size", "300", "--block-size", "8",
              "--n-embd", "16", "--n-layer", "1"]
    data.command_line(GPT_COMMANDS, "pretrain", [*common, "--steps", "2"])
    data.command_line(GPT_COMMANDS, "pretrain", [*common, "--steps", "2", "--n-layer", "2"])   # trains anew
    assert gpt.load_model("runs/pretrain/pretrain.pt")[0].config.n_layer == 2
    assert "reusing" not in capsys.readouterr().out
    data.command_line(GPT_COMMANDS, "sample", ["--prompt", "some", "--tokens", "30", "--top-k", "5"])
    assert capsys.readouterr().out.startswith("some")


def test_help_is_made_from_the_settings(capsys):
    with pytest.raises(SystemExit) as error:
        data.command_line(RLHF_COMMANDS, "instructgpt", ["instructgpt", "--help"])
    out = capsys.readouterr().out
    assert error.value.code == 0 and "--ptx-coef" in out and "gamma of eq. (2)" in out


def test_ctrl_c_keeps_the_last_checkpoint():
    Path("text.txt").write_text("some text to learn from. " * 2000)
    command = [sys.executable, str(HERE / "gpt.py"), "--data", "text.txt", "--steps", "100000",
               "--n-embd", "16", "--n-layer", "1", "--block-size", "16"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               # a job in the background of a script is born deaf to Ctrl-C
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    checkpoint, deadline = Path("runs/pretrain/pretrain.pt"), time.time() + 120
    while not checkpoint.exists() and time.time() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors and errors.strip().count("\n") == 0
    assert gpt.load_checkpoint(checkpoint)["step"] >= 200
    assert not list(checkpoint.parent.glob(".*.tmp"))
