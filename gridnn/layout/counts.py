"""What a movement costs in words and messages: the one definition that predictions and the ledger share.

Words are elements. A rank of a group of p that holds n_i of N elements counts

- all-gather, reduce-scatter: N - n_i words, ceil(log2 p) messages (Thakur et al. 2005; Gholami et al. 2018, eq (3));
- all-reduce: twice that, n_i its even part (reduce-scatter, then all-gather; Gholami et al. 2018, eq (4));
- all-to-all and messages between neighbours: the words that it sends, one message for every rank it sends some to.

Summed over a group, the first two are (p - 1) N and 2 (p - 1) N, what a ring or a recursive halving really sends.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from gridnn.layout.group import Group
from gridnn.layout.partition import Even

DIMENSIONS = ("row", "column", "world")
SUMS = ("all-reduce", "started all-reduce", "reduce-scatter")  # kinds of calls that add: 16-bit numbers as float32


class Count(NamedTuple):
    """Words and messages of one rank for one call."""

    kind: str
    dimension: str
    words: int
    messages: int


def dimension_of(ranks: Iterable[int], rows: int) -> str:
    """The grid dimension along which ``ranks`` (indices down the columns) lie: column, row, or world."""
    if isinstance(ranks, Group):
        along_column = ranks.first // rows == ranks.last // rows
        along_row = all(stride % rows == 0 for _, stride in ranks.strides)
    else:
        ranks = tuple(ranks)
        along_column = len({rank // rows for rank in ranks}) == 1
        along_row = len({rank % rows for rank in ranks}) == 1
    return "column" if along_column else "row" if along_row else "world"


def rounds(group: int) -> int:
    """ceil(log2 p), the messages of an all-gather or reduce-scatter over p ranks."""
    return (group - 1).bit_length()


def all_reduce(dimension: str, group: int, place: int, size: int) -> Count:
    """The count of member ``place`` of ``group`` ranks for an all-reduce of ``size`` elements."""
    return Count("all-reduce", dimension, 2 * (size - Even(size, group).extent(place)), 2 * rounds(group))


def joining(kind: str, dimension: str, group: int, own: int, total: int) -> Count:
    """The count of a member that has ``own`` of ``total`` elements, for an all-gather or a reduce-scatter."""
    return Count(kind, dimension, total - own, rounds(group))


def all_to_all(dimension: str, sent: Iterable[int]) -> Count:
    """The count of a member that sends pieces of ``sent`` elements to others; empty ones are no messages."""
    sizes = [size for size in sent if size]
    return Count("all-to-all", dimension, sum(sizes), len(sizes))


def messages(index: int, away: Iterable[tuple[int, int]], rows: int) -> list[Count]:
    """The counts of messages of rank ``index`` to other ranks, given as (rank, words); empty ones are not sent."""
    return [Count("neighbours", dimension_of((index, peer), rows), words, 1) for peer, words in away if words]


def bucket(dimension: str, group: int, place: int, sizes: Sequence[int]) -> list[Count]:
    """The counts of one all-reduce of several layers' gradients of ``sizes`` elements: messages with the first.

    The words of a share are those of the bucket up to its end less those up to its start, so that they add up.
    """
    counts, before, words = [], 0, 0
    for i, size in enumerate(sizes):
        count = all_reduce(dimension, group, place, before + size)
        counts.append(count._replace(words=count.words - words, messages=0 if i else count.messages))
        before, words = before + size, count.words
    return counts
