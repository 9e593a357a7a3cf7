"""
Small drawn scenes, the questions that they answer and their tokens, for papers/gpt4_pictures.py.
Prompts with several pictures are in papers/gpt4_pictures_several.py.

A picture is a grid of 3 x 3 cells, each empty or with one of 16 drawings, a shape in a color:

    .         red square  .
    .         .           blue round
    red flat  .           .

A cell is a token, and one more token says that a picture begins, so a picture is ten tokens. Their
ids follow those of the tokenizer. The report discloses no design; ours is after iGPT (Chen et al.
2020), whose tokens are the colors of pixels.

Held out: a thing's shape, color and place and the number of things in its scene are a combination
of four values. About a fifth of these combinations occurs in the test only, whose scenes have no
others. Any three of the four values do occur together in training.
"""
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import gpt
from data import Tokenizer, train_bpe
from papers.tasks import distinct

# ------------------------------------------------------------------------------
# Scenes

SHAPES = ("square", "round", "flat", "tall")
COLORS = ("red", "green", "blue", "white")
PLACES = ("northwest", "north", "northeast",
          "west", "center", "east",
          "southwest", "south", "southeast")
COUNTS = (2, 3, 4, 5)  # things in a scene
NUMBERS = ("zero", "one", "two", "three", "four", "five")
# The possible answers in the test; scenes with five things of one color or shape are too rare.
VALUES = {"shape": SHAPES, "color": COLORS, "place": PLACES, "number": NUMBERS[:5]}


@dataclass(frozen=True)
class Thing:
    shape: str
    color: str
    place: str


Scene = tuple[Thing, ...]  # in the order of PLACES


def is_held_out(thing: Thing, count: int, seed: int) -> bool:
    """Whether no training scene of `count` things has this thing."""
    shape = SHAPES.index(thing.shape)
    color = COLORS.index(thing.color)
    place = PLACES.index(thing.place)
    return (shape + 2 * color + 3 * place + 4 * count + seed) % 5 == 0


def random_scene(rng: random.Random, split: str, seed: int) -> Scene:
    """A scene for "train" or "test". Half of the scenes have two shapes only, half two colors, so
    that things are often alike."""
    count = rng.choice(COUNTS)
    while True:
        shapes = rng.sample(SHAPES, rng.choice((2, 4)))
        colors = rng.sample(COLORS, rng.choice((2, 4)))
        places = rng.sample(PLACES, count)
        scene = []
        for place in sorted(places, key=PLACES.index):
            possible = []
            for shape, color in itertools.product(shapes, colors):
                thing = Thing(shape, color, place)
                if is_held_out(thing, count, seed) == (split == "test"):
                    possible.append(thing)
            if possible:
                scene.append(rng.choice(possible))
        if len(scene) == count:
            return tuple(scene)


# ------------------------------------------------------------------------------
# Questions

# "what is asked by what names the thing or things": the wording
QUESTIONS = {
    "shape by place": "Which shape is {value}?",
    "color by place": "Which color is {value}?",
    "shape by color": "Which shape is {value}?",
    "color by shape": "Which color is {value}?",
    "place by color": "Where is {value}?",
    "place by shape": "Where is {value}?",
    "number by color": "How many are {value}?",
    "number by shape": "How many are {value}?",
}
KINDS = (*QUESTIONS, "caption")
GROUPS = {
    "caption": ("caption",),
    "by place": ("shape by place", "color by place"),
    "by content": ("shape by color", "color by shape", "place by color", "place by shape"),
    "number": ("number by color", "number by shape"),
}


def caption(scene: Scene) -> tuple[str, str]:
    """The question what is there, and its answer: all things, in reading order."""
    things = [f"{thing.color} {thing.shape} {thing.place}" for thing in scene]
    return "What is there?", ", ".join(things)


def questions_about(scene: Scene, thing: Thing) -> dict[str, tuple[str, str]]:
    """The question of each kind that names this thing and no other, with its answer."""
    turns = {}
    for kind, wording in QUESTIONS.items():
        asked, given = kind.split(" by ")
        value = getattr(thing, given)
        alike = [other for other in scene if getattr(other, given) == value]
        if asked != "number" and len(alike) == 1:
            turns[kind] = wording.format(value=value), getattr(thing, asked)
    return turns


def number_questions(scene: Scene, given: str) -> list[tuple[str, str]]:
    """How many things have each color, or each shape."""
    turns = []
    for value in VALUES[given]:
        alike = [thing for thing in scene if getattr(thing, given) == value]
        question = QUESTIONS[f"number by {given}"].format(value=value)
        turns.append((question, NUMBERS[len(alike)]))
    return turns


# ------------------------------------------------------------------------------
# Training documents

Question = tuple[str | Scene, ...]  # texts and pictures in their order
Document = tuple[tuple[Question, str], ...]  # questions with their answers


def about(shown: Question, turns: list[tuple[str, str]]) -> Document:
    """A document that shows pictures, and texts that name them, before the first of its
    questions."""
    document = []
    for question, answer in turns:
        document.append(((*shown, question), answer))
        shown = ()  # the other questions are texts alone
    return tuple(document)


def random_document(rng: random.Random, seed: int) -> Document:
    """A picture with a question about each of its things, or questions for numbers, or a caption.
    These are never mixed, so that no answer can be read from an earlier one."""
    scene = random_scene(rng, "train", seed)
    [way] = rng.choices(("by place", "by content", "numbers", "caption"), (1, 4, 3, 1))
    if way == "caption":
        turns = [caption(scene)]
    elif way == "numbers":
        # not of all four values: the numbers add up to that of the scene's things
        turns = rng.sample(number_questions(scene, rng.choice(("color", "shape"))), 3)
    else:
        turns = []
        for thing in rng.sample(scene, len(scene)):
            possible = questions_about(scene, thing)
            wanted = [turn for kind, turn in possible.items() if kind in GROUPS[way]]
            # if other things have its color and its shape, only its place names the thing
            turns.append(rng.choice(wanted or list(possible.values())))
    return about((scene,), turns)


def parts_of(document: Document) -> Iterator[tuple[str | Scene, bool]]:
    """Texts and pictures in their order, and whether each is an answer. An empty answer is left
    out: the model is to write it."""
    for question, answer in document:
        for part in question:
            yield part, False
        if answer:
            yield f" {answer}\n", True


def learn_tokenizer(write: Callable[[random.Random, int], Document], seed: int) -> Tokenizer:
    """A tokenizer of the texts of training documents, for which every word is a token."""
    rng = random.Random(f"tokenizer {seed}")
    texts = []
    for _ in range(2000):
        parts = parts_of(write(rng, seed))
        texts += [part for part, _ in parts if isinstance(part, str)]
    return Tokenizer(train_bpe(texts, 1000))


def vocabulary(tokenizer: Tokenizer) -> int:
    """The number of tokens: those of texts, then those of pictures, see `draw`."""
    return tokenizer.vocab_size + 2 + len(SHAPES) * len(COLORS)


def draw(scene: Scene) -> list[int]:
    """The tokens of a picture: 0 its beginning, 1 an empty cell, from 2 on the drawings."""
    cells = [1] * len(PLACES)
    for thing in scene:
        drawing = SHAPES.index(thing.shape) * len(COLORS) + COLORS.index(thing.color)
        cells[PLACES.index(thing.place)] = 2 + drawing
    return [0, *cells]


def encode(tokenizer: Tokenizer, document: Document) -> tuple[list[int], list[int]]:
    """The ids of a document, and the same with -1 where there is no loss: outside answers."""
    ids, targets = [tokenizer.eot], [-1]
    for part, is_answer in parts_of(document):
        if isinstance(part, str):
            new = tokenizer.encode(part)
        else:
            new = [tokenizer.vocab_size + cell for cell in draw(part)]
        ids += new
        targets += new if is_answer else [-1] * len(new)
    return ids, targets


def batch_of(tokenizer: Tokenizer, documents: list[Document], device):
    """Documents -> x and y, both (B, T): y is the next token if that is an answer's, else -1."""
    encoded = [encode(tokenizer, document) for document in documents]
    x, _ = gpt.to_tensors([ids for ids, _ in encoded], tokenizer.pad, device)  # (B, T+1)
    y, _ = gpt.to_tensors([targets for _, targets in encoded], -1, device)  # (B, T+1)
    return x[:, :-1], y[:, 1:]


def cases_of(kind: str, count: int, split: str, seed: int) -> list[Document]:
    """Up to `count` distinct cases of one of KINDS, each a picture and one question. All answers to
    a kind of question are about equally frequent."""
    asked, _, given = kind.partition(" by ")  # `given` is empty for captions
    name = (asked, given) if given else kind
    rng = random.Random(f"{name} {split} {seed}")

    def make_case():
        if kind == "caption":
            scene = random_scene(rng, split, seed)
            return about((scene,), [caption(scene)])
        target = rng.choice(VALUES[asked])
        while True:
            scene = random_scene(rng, split, seed)
            if asked == "number":
                turns = number_questions(scene, given)
            else:
                turns = [questions_about(scene, thing).get(kind) for thing in scene]
            turns = [turn for turn in turns if turn and turn[1] == target]
            if turns:
                return about((scene,), [rng.choice(turns)])
    return distinct(make_case, count, lambda case: case)
