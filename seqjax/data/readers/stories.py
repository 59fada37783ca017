"""Short rule-based stories with a question and its answer: who is where, who has what, and where they were before."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from seqjax.data.draws import uniform
from seqjax.data.records import PARTS

PEOPLE = ("Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Ida", "John", "Laura", "Mary")
PLACES = (
    "attic", "bathroom", "bedroom", "cellar", "garage", "garden", "hall", "kitchen", "library", "office", "park", "school",
)  # fmt: skip
THINGS = ("apple", "ball", "book", "bottle", "cake", "coat", "cup", "key", "lamp", "letter", "map", "umbrella")
KINDS = ("where is who", "where was who", "who has", "who had", "how many")
COUNTS = ("none", "one", "two", "three", "four")
LONGEST = 20  # sentences of a story, without the question
TRAINED = 2.0  # training lengths are LONGEST times a uniform number to this power: more short stories
TRIES = 10  # attempts with one kind of question and length, before others are drawn

ENTER = ("{} entered the {}.", "{} reached the {}.")
TAKE = ("{} took the {}.", "{} got the {}.")
GIVE = ("{} gave {} the {}.", "{} handed {} the {}.")
LOSE = ("{} dropped the {}.", "{} lost the {}.")
LIKE, SEE, RAIN = "{} likes the {}.", "{} saw the {}.", "It rained."  # these change nothing

# Difference of a person's number and a place's or thing's, modulo their number: each value belongs to one part alone.
HELD_OUT = {"validation": 0, "test": 1}


class Story(NamedTuple):
    """A story, a question about it, and the answer."""

    text: str  # the question, then the sentences
    answer: str
    kind: str  # kind of the question, one of KINDS
    sentences: int  # sentences in the story, without the question


def make_stories(part: str, number: int, seed: int = 0) -> tuple[Story, ...]:
    """Stories of 1 to 20 sentences, each with a question that it answers; no two alike.

    Two to four people enter places, take things, hand them to others and lose them. Some sentences change nothing: what someone likes or
    saw, and the weather. "Where was Ben before?" asks for the place before the current one, "Who had the key before?" for the last previous
    owner, and "How many" counts the people that the story has put in a place.

    Each person has one place and one thing held out for the validation part, and others for the test part: stories of other parts never
    pair the two, and every answer of that part depends on such a pair. Lengths are uniform in validation and test; in the training part
    short stories are more frequent. Kinds of question are about equally frequent.

    Args:
      part: "train", "validation" or "test"; each has its own stories.
      number: how many stories.
      seed: determines the stories and the pairs held out.

    Returns:
      `number` stories.

    Example:
      >>> story = make_stories("train", 20)[8]
      >>> print(story.text)
      Where was John before? John entered the attic. Grace entered the bathroom. John reached the park.
      >>> print(story.answer)
      attic, now park
    """
    order, draws, found = _Draws(seed, len(PARTS)), _Draws(seed, PARTS.index(part)), {}
    names = _Names(*(order.some(words, len(words)) for words in (PEOPLE, PLACES, THINGS)))
    while len(found) < number:
        kind, length = draws.pick(KINDS), 1 + int(LONGEST * draws.share() ** (TRAINED if part == "train" else 1.0))
        for _ in range(TRIES):
            story = _story(part, kind, length, draws, names)
            if story is not None and story.text not in found:
                found[story.text] = story
                break
    return tuple(found.values())


def simple_answers(train: Mapping[str, Sequence[str]], part: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Baselines: the most frequent answer to each kind of question, and the last place or person named.

    Args:
      train, part: columns "source", "target" and "kind" of the training part and of the part to answer.

    Returns:
      Name -> an answer to each question of the part. The second baseline differs from the first only for questions about where someone is
      and who has something.

    Example:
      >>> train = {"source": ["..."] * 3, "target": ["none", "one", "none"], "kind": ["how many"] * 3}
      >>> part = {"source": ["Who has the key? Ben entered the hall.", "How many are in the hall? It rained."]}
      >>> part["kind"] = ["who has", "how many"]
      >>> simple_answers(train, part)
      {'most frequent answer to the kind of question': ['none', 'none'], 'last place or person named': ['Ben', 'none']}
    """
    counts = defaultdict(Counter)
    for kind, answer in zip(train["kind"], train["target"]):
        counts[kind][answer] += 1
    overall = sum(counts.values(), Counter())
    usual = [counts.get(kind, overall).most_common(1)[0][0] for kind in part["kind"]]
    named = [_last_named(text, kind) or answer for text, kind, answer in zip(part["source"], part["kind"], usual)]
    return {"most frequent answer to the kind of question": usual, "last place or person named": named}


def _last_named(text: str, kind: str) -> str:
    """An answer to a question about a place or a person; "" for other questions, or if none is named."""
    words = re.findall(r"\w+", text[text.find("?") :])
    among = {"where is who": PLACES, "who has": PEOPLE}.get(kind, ())
    return next((word for word in reversed(words) if word in among), "")


class _Draws:
    """Random choices that are the same in every version of NumPy and Python."""

    def __init__(self, seed: int, key: int):
        self._bits = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(key,)))
        self._stream = self._numbers()

    def _numbers(self) -> Iterator[float]:
        while True:
            yield from uniform(self._bits, 4096).tolist()

    def share(self) -> float:
        """A number in [0, 1)."""
        return next(self._stream)

    def pick(self, things: Sequence[Any]) -> Any:
        """One of them."""
        return things[int(next(self._stream) * len(things))]

    def some(self, things: Sequence[Any], number: int) -> list[Any]:
        """A number of them in random order; all of them if there are fewer."""
        left = list(things)
        return [left.pop(int(next(self._stream) * len(left))) for _ in range(min(number, len(left)))]


class _Names(NamedTuple):
    """The numbering of people, places and things."""

    people: Sequence[str]
    places: Sequence[str]
    things: Sequence[str]


def _story(part: str, kind: str, length: int, draws: _Draws, names: _Names) -> Story | None:
    """One story; None if the draw does not fit the part."""
    own, size = HELD_OUT.get(part), len(PEOPLE)
    cast = draws.some(range(size), 2 + int(3 * draws.share()))
    wanted = [] if own is None else [(cast[0] + own) % size]  # the first person's place and thing held out for the part
    taken = {(who + other) % size for who in cast for other in HELD_OUT.values() if other != own}
    if taken & set(wanted):
        return None
    free = [number for number in range(size) if number not in taken and number not in wanted]
    rooms = wanted + draws.some(free, 3 + int(3 * draws.share()) - len(wanted))
    goods = wanted + draws.some(free, 1 + int(3 * draws.share()) - len(wanted))
    scene = _Scene(names, cast, rooms, goods)
    lines = [scene.sentence(draws) for _ in range(length)]
    by_answer = defaultdict(list)
    for question, answer, pairs in scene.questions(kind):
        if own is None or any((other - who) % size == own for who, other in pairs):
            by_answer[re.match("[^,:]+", answer)[0]].append((question, answer))  # pyright: ignore[reportOptionalSubscript]
    if not by_answer:
        return None
    question, answer = draws.pick(by_answer[draws.pick(list(by_answer))])  # first an answer, so that rare ones are not rare
    return Story(" ".join([question, *lines]), answer, kind, length)


class _Scene:
    """The people, places and things of one story, by number, and their state after the sentences so far."""

    def __init__(self, names: _Names, cast: Sequence[int], rooms: Sequence[int], goods: Sequence[int]):
        self._people, self._places, self._things = names
        self._cast, self._rooms, self._goods = cast, rooms, goods
        self._went: dict[int, list[int]] = {}  # person -> places, the current one last
        self._had: dict[int, list[int]] = {}  # thing -> its owners, the latest last
        self._lost: set[int] = set()  # things that nobody has any more

    def sentence(self, draws: _Draws) -> str:
        """A sentence, and what it changes."""
        who, chance = draws.pick(self._cast), draws.share()
        name, own = self._people[who], [thing for thing, had in self._had.items() if had[-1] == who and thing not in self._lost]
        if chance < 0.22 and (there := [thing for thing in self._goods if thing not in self._had or thing in self._lost]):
            thing = draws.pick(there)
            self._had.setdefault(thing, []).append(who)
            self._lost.discard(thing)
            return draws.pick(TAKE).format(name, self._things[thing])
        if chance < 0.4 and own:
            thing, other = draws.pick(own), draws.pick([other for other in self._cast if other != who])
            self._had[thing].append(other)
            return draws.pick(GIVE).format(name, self._people[other], self._things[thing])
        if 0.4 <= chance < 0.47 and own:
            self._lost.add(thing := draws.pick(own))
            return draws.pick(LOSE).format(name, self._things[thing])
        if 0.47 <= chance < 0.53:
            return LIKE.format(name, self._places[draws.pick(self._rooms)])
        if 0.53 <= chance < 0.59:
            return SEE.format(name, self._things[draws.pick(self._goods)])
        if 0.59 <= chance < 0.62:
            return RAIN
        went = self._went.setdefault(who, [])
        went.append(draws.pick([room for room in self._rooms if room not in went[-1:]]))
        return draws.pick(ENTER).format(name, self._places[went[-1]])

    def questions(self, kind: str) -> Iterator[tuple[str, str, list[tuple[int, int]]]]:
        """All questions of a kind that can be answered: (question, answer, the pairs that the answer turns on)."""
        if kind == "how many":
            for place in {place: None for went in self._went.values() for place in went}:
                there = sorted(self._people[who] for who, went in self._went.items() if went[-1] == place)
                answer = f"{COUNTS[len(there)]}: {' and '.join(there)}" if there else COUNTS[0]
                pairs = [(who, place) for who, went in self._went.items() if place in went]
                yield f"How many are in the {self._places[place]}?", answer, pairs
        for who, went in self._went.items() if kind.startswith("where") else ():
            name, places = self._people[who], [self._places[place] for place in went[-2:]]
            if kind == "where is who":
                yield f"Where is {name}?", places[-1], [(who, went[-1])]
            elif len(places) > 1:
                yield f"Where was {name} before?", f"{places[0]}, now {places[1]}", [(who, went[-2])]
        for thing, had in self._had.items() if kind.startswith("who ") else ():
            name, now = self._things[thing], None if thing in self._lost else had[-1]
            holder = "nobody" if now is None else self._people[now]
            if kind == "who has":
                yield f"Who has the {name}?", holder, [(had[-1], thing)]
            elif others := [who for who in had if who != now]:
                yield f"Who had the {name} before?", f"{self._people[others[-1]]}, now {holder}", [(others[-1], thing)]
