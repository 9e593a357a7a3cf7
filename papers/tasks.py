"""
What several papers share: a wider web of the world, conversations in which something is told and
asked for, and GPT-1's four tasks.

The wide web has, besides most kinds of the core's documents, texts in which tasks occur by
themselves: phrasebooks of a second language, sentences that say which of two nouns is too big or
too small, and stories with a summary. `gpt1`, `gpt2` and `gpt3_data` train on it.

Papers: GPT-1 (Radford et al. 2018) §3.3; GPT-2 (Radford et al. 2019) §2.1.
"""
import functools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import data
from data import ASIDES, FORUM_QUESTION, HAPPY, PLACES, SAD, THINGS, TOPICS, World

# --------------------------------------------------------------------------------------------------
# The wide web

# "The book does not fit into the bag, because the ... is too big": adjective -> index of its noun
MISFITS = {"big": 0, "large": 0, "wide": 0, "small": 1, "little": 1, "narrow": 1}


SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]


@functools.cache
def foreign_words(seed: int) -> dict[str, str]:
    """The second language of World(seed): a made-up word for each color and each pet."""
    rng = random.Random(f"foreign {seed}")
    english = TOPICS["color"].values + TOPICS["pet"].values
    pairs = [first + second for first in SYLLABLES for second in SYLLABLES]
    return dict(zip(english, rng.sample(pairs, len(english))))


def phrase(world: World, rng: random.Random, split: str) -> tuple[str, str]:
    """A color and a pet in both languages; the second one puts the adjective last. A fifth of the
    combinations is held out."""
    color, pet = world.pick(rng, split, TOPICS["color"].values, TOPICS["pet"].values)
    foreign = foreign_words(world.seed)
    return f"{color} {pet}", f"{foreign[pet]} {foreign[color]}"


def phrasebook(world: World, rng: random.Random, order: int, lines: int) -> str:
    """Lines of `one language = the other`: English first (order 1) or last (order -1)."""
    pairs = [phrase(world, rng, "train")[::order] for _ in range(lines)]
    return "\n".join(f"{source} = {target}" for source, target in pairs)


def phrasebook_document(world: World, rng: random.Random) -> str:
    return phrasebook(world, rng, order=rng.choice((1, -1)), lines=5)


def fitting(world: World, rng: random.Random, split: str) -> tuple[str, list[str], str, int]:
    """A Winograd schema; a fifth of the combinations is held out.

    Returns the text before the pronoun's place, the two nouns that the pronoun can mean, the text
    after it, and the index of the noun that it means.
    """
    thing, place, adjective = world.pick(rng, split, THINGS, PLACES, list(MISFITS))
    before = f"The {thing} does not fit into the {place}, because the"
    after = f" is too {adjective}."
    return before, [thing, place], after, MISFITS[adjective]


def fitting_document(world: World, rng: random.Random) -> str:
    """A schema with the right noun in the pronoun's place."""
    before, nouns, after, right = fitting(world, rng, "train")
    return f"{before} {nouns[right]}{after} {rng.choice(ASIDES)}"


def digest_document(world: World, rng: random.Random) -> str:
    """A story and its summary."""
    text, summary = world.trip(rng, "train")
    return f"{text}\nTL;DR: {summary}"


# Kinds of documents and their share of the web.
WIDE_WEB = {data.story: .175, data.forum: .098, data.dialogue: .175, data.workbook: .07,
            data.echo: .147, data.lesson: .035,
            phrasebook_document: .1, fitting_document: .1, digest_document: .1}


def wide_web(world: World, count: int = data.WORLD_DOCUMENTS, seed: int | str = 0) -> Iterator[str]:
    """`count` documents of the wide web."""
    return data.web(world, count, seed, WIDE_WEB)


def distinct(make_case: Callable, count: int, asked: Callable) -> list:
    """Up to `count` cases, no two of which ask the same; the world has few of some kinds.

    make_case() is called 20 times per case at the most. asked(case): what the case asks.
    """
    cases = {}
    for _ in range(20 * count):
        case = make_case()
        cases.setdefault(asked(case), case)
        if len(cases) == count:
            break
    return list(cases.values())


# Each answer about something told -> all answers about the same topic. Those with words that nobody
# knows (data.tell) are not among them.
KNOWN_ANSWERS = {}
for _topic, _memory in data.MEMORIES.items():
    _values = data.GUESTS if _topic == "name" else TOPICS[_topic].values
    _answers = [_memory.answer.format(value=_value) for _value in _values]
    KNOWN_ANSWERS.update(dict.fromkeys(_answers, _answers))


def recall_case(world: World, rng: random.Random, between: list[str]) -> tuple[list[dict], str]:
    """A conversation, as messages, that begins with something told and ends with a question about
    something told, and the right answer. Told are held-out values and, in a fifth of the tellings,
    words that nobody knows. between: the kinds of the exchanges in between; if one is "tell", the
    question may be about that one."""
    kinds = ["tell", *between, "recall"]
    *earlier, (question, answer) = data.random_exchanges(world, rng, "test", kinds)
    messages = []
    for said, reply in earlier:
        messages = data.answered([*messages, {"role": "user", "content": said}], reply)
    return [*messages, {"role": "user", "content": question}], answer


def dialogue_of(messages: list[dict]) -> str:
    """A conversation in the form of the web's dialogues."""
    names = {"user": "Guest", "assistant": "Host"}
    return "".join(f"{names[turn['role']]}: {turn['content']}\n" for turn in messages)


# --------------------------------------------------------------------------------------------------
# GPT-1's four tasks


@dataclass
class Labeled:
    """A case of a task: its texts, its class or the index of the right answer, and what is asked:
    no two cases of a test ask the same."""
    texts: tuple
    label: int
    asked: str = ""


def gpt1_task(world: World, task: str, split: str, count: int, seed: int) -> list[Labeled]:
    """`count` cases of a task to train on; to test on, up to `count` that ask different things.

    - classification: is the review sad (0) or happy (1)?
    - entailment: does a sentence answer a question (1) or not (0)?
    - similarity: do two questions ask the same (1) or not (0)?
    - multiple choice: which of four sentences answers the question?

    The test cases have other people, other adjectives, and each question in two forms, of which the
    training cases show one. Pretraining has read both forms, but no text of the web asks what the
    test cases ask.
    """
    rng = random.Random(f"{task} {world.seed} {split} {seed}")

    def make_case():
        return CASES[task](world, rng, split)
    if split == "train":
        return [make_case() for _ in range(count)]
    return distinct(make_case, count, lambda case: case.asked)


def review_case(world: World, rng: random.Random, split: str) -> Labeled:
    """A review and a sentence that does not matter, in random order."""
    adjectives = HAPPY + SAD
    held_out = adjectives[::2]
    while True:
        food, adjective = world.pick(rng, split, TOPICS["food"].values, adjectives)
        if (adjective in held_out) == (split == "test"):
            break
    review = f"The {food} was {adjective}."
    text = " ".join(rng.sample([review, rng.choice(ASIDES)], 2))
    return Labeled((text,), int(adjective in HAPPY), review)


def ask(rng: random.Random, split: str, person: str, topic: str) -> str:
    """A question in one of the topic's two forms; the training cases know only one of them."""
    form = rng.randrange(2) if split == "test" else list(TOPICS).index(topic) % 2
    return TOPICS[topic].questions[form].format(person=person)


def entailment_case(world: World, rng: random.Random, split: str) -> Labeled:
    """A statement about a person, and a question that it answers or, in half of the cases, not."""
    person = rng.choice(world.people_of(split))
    is_answer = rng.randrange(2)
    asked = rng.choice(world.topics_of(person, split))
    told = asked
    if not is_answer:
        told = rng.choice([topic for topic in TOPICS if topic != asked])
    question = ask(rng, split, person, asked)
    return Labeled((world.state(rng, person, told), question), is_answer, f"{question} {told}")


def similarity_case(world: World, rng: random.Random, split: str) -> Labeled:
    """Two questions about a person, the second in the forum's form, on the same topic or not."""
    person = rng.choice(world.people_of(split))
    same = rng.randrange(2)
    topic, other = rng.sample(world.topics_of(person, split), 2)
    if same:
        other = topic
    questions = [
        ask(rng, split, person, topic),
        FORUM_QUESTION.format(person=person, topic=other),
    ]
    return Labeled(tuple(rng.sample(questions, 2)), same, " ".join(questions))


def choice_case(world: World, rng: random.Random, split: str) -> Labeled:
    """An aside as the context, a question, and four answers, one of which is to the question."""
    person = rng.choice(world.people_of(split))
    asked = rng.choice(world.topics_of(person, split))
    others = rng.sample([topic for topic in TOPICS if topic != asked], 3)
    topics = rng.sample([asked, *others], 4)
    answers = [world.state(rng, person, topic) for topic in topics]
    context, question = rng.choice(ASIDES), ask(rng, split, person, asked)
    return Labeled((context, question, answers), topics.index(asked), question)


CASES = {
    "classification": review_case,
    "entailment": entailment_case,
    "similarity": similarity_case,
    "multiple choice": choice_case,
}
