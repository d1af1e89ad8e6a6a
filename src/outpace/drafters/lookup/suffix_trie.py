"""A trie of all substrings of a growing text, up to a depth, with the number of times that each occurs.

A substring that has occurred once is not written out: the position behind its occurrence stands for it, and
the second occurrence makes a `Node` of that. So a token costs one look-up for every length at which the end
of the text has occurred before, usually few, and memory grows with what repeats, not with text times depth.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from outpace.trees.likeliest import Grown, Offer, best_first

ENTRY_BYTES = 280  # what a counted substring takes at worst: its node, its dictionary, its place in another

END = -1
"""Stands behind every closed sequence of a text; matches no token."""


class Node:
    """A substring that has occurred twice or more often.

    count  how often.
    after  token -> the substring that is longer by it, a Node or the position behind its one occurrence;
           None in the deepest nodes.
    last   the position behind its latest occurrence that has something behind it.
    """

    __slots__ = ("after", "count", "last")

    def __init__(self, count: int, after: dict[int, Place] | None, last: int) -> None:
        self.count = count
        self.after = after
        self.last = last


Place = Node | int
"""A substring of the text: a Node, or, of one that occurs once, the position behind it."""


class SuffixTrie:
    """Sequences of tokens behind one another in `text`, and the counted substrings of each to `depth` tokens.

    `ends[m]` is the Node of the text's last m tokens, for every m at which these have occurred before;
    ends[0] is the root. With `most` entries a trie is `full`: more text is kept, but not counted.
    """

    def __init__(self, depth: int, *, most: int = sys.maxsize) -> None:
        self.depth = depth
        self.most = most
        self.entries = 0
        self.text: list[int] = []
        self.root = Node(0, {}, 0)
        self.ends: list[Node] = [self.root]

    @property
    def full(self) -> bool:
        """Whether it counts no more."""
        return self.entries >= self.most

    def extend(self, tokens: Iterable[int]) -> None:
        """Append tokens to the sequence at the end of the text."""
        text, depth = self.text, self.depth
        for token in tokens:
            at = len(text)
            text.append(token)
            if self.entries >= self.most:
                self.ends = [self.root]
                continue
            longer = [self.root]
            for node in self.ends:
                node.last = at
                after = node.after
                if after is None:
                    break
                place = after.get(token)
                if place is None:
                    after[token] = at + 1
                    self.entries += 1
                    continue
                if isinstance(place, int):
                    known: dict[int, Place] = {} if text[place] == END else {text[place]: place + 1}
                    self.entries += len(known)
                    place = after[token] = Node(1, known if len(longer) < depth else None, place)
                place.count += 1
                longer.append(place)
            self.ends = longer

    def close(self) -> None:
        """End the sequence: what comes next does not continue it."""
        self.text.append(END)
        self.ends = [self.root]

    def advance(self, places: list[Place], token: int) -> list[Place]:
        """Where the last m tokens of another text stand in this one, for every m at which they do.

        `places` is the answer before the token came; that of an empty text is `[root]`.
        """
        longer: list[Place] = [self.root]
        for place in places[: self.depth]:
            if isinstance(place, int):
                if self.text[place] == token:
                    longer.append(place + 1)
            else:
                found = place.after.get(token) if place.after else None
                if found is not None:
                    longer.append(found)
        return longer

    def grow(self, root: int, place: Place, *, size: int, depth: int, min_p: float) -> Grown:
        """The likeliest continuations of a substring that ends with the token `root`.

        At most `size` nodes, likeliest first, none below `depth` levels or less likely than `min_p`. A
        node's probability is its parent's times its share in the counts of its siblings; a substring too long
        to be counted continues as it did the last time.
        """

        # Ties go to the upper level, then to the later occurrence; no two nodes of a level end at one place.
        def children(node: int, level: int, taken: Offer[Place]) -> list[Offer[Place]]:
            negative, *_, place = taken
            return [
                (negative * share, (level, -late), node, token, longer)
                for share, late, token, longer in self._children(place)
                if -negative * share >= min_p
            ]

        return best_first(root, place, children, size=size, depth=depth)

    def _children(self, place: Place) -> list[tuple[float, int, int, Place]]:
        """(share, position behind the latest occurrence, token, place) of what is longer by one token."""
        after = None if isinstance(place, int) else place.after
        if after is None:
            at = place if isinstance(place, int) else place.last
            open_end = at < len(self.text) and self.text[at] != END
            return [(1.0, at + 1, self.text[at], at + 1)] if open_end else []
        counts = [1 if isinstance(longer, int) else longer.count for longer in after.values()]
        total = sum(counts)
        return [
            (count / total, longer if isinstance(longer, int) else longer.last, token, longer)
            for count, (token, longer) in zip(counts, after.items(), strict=True)
        ]
