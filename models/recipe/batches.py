"""Turns documents of the training world into batches of tensors, endlessly and reproducibly."""

import dataclasses
import random

import torch

from model import Group
from world.conversation import make_document

BRANCHES = 16
ROW_TOKENS = 224


@dataclasses.dataclass
class Batch:
    """Prefixes and rows of branches; `weights` [rows, length] tells how much each token counts as a target."""

    prefixes: Group
    branches: Group
    weights: torch.Tensor


def encode_branch(tokenizer, branch):
    """Ids and target weights of a branch, segment by segment."""
    ids, weights = [], []
    for segment in branch.segments:
        tokens = tokenizer.encode(segment.text, add_special_tokens=False).ids
        ids += tokens
        weights += [1.0 if segment.learned else 0.0] * len(tokens)
    return ids, weights


def pack(branches: list, row_tokens: int) -> list:
    """Puts encoded branches into as few rows of `row_tokens` as first-fit finds."""
    rows, free = [], []
    for branch in sorted(branches, key=lambda branch: -len(branch[0])):
        place = next((row for row, room in enumerate(free) if room >= len(branch[0])), None)
        if place is None:
            place = len(rows)
            rows.append([])
            free.append(row_tokens)
        rows[place].append(branch)
        free[place] -= len(branch[0])
    return rows


def make_batch(documents: list) -> Batch:
    """`documents`: (ids of the prefix, encoded branches) each."""
    width = max(len(prefix) for prefix, _ in documents)
    longest = max(len(ids) for _, branches in documents for ids, _ in branches)
    length = max(ROW_TOKENS, longest)
    prefix_ids = torch.zeros(len(documents), width, dtype=torch.long)
    prefix_positions = torch.full_like(prefix_ids, -1)
    rows = []
    for index, (prefix, branches) in enumerate(documents):
        prefix_ids[index, width - len(prefix):] = torch.tensor(prefix)
        prefix_positions[index, width - len(prefix):] = torch.arange(len(prefix))
        rows += [(index, row) for row in pack(branches, length)]
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    positions, segments = torch.full_like(ids, -1), torch.full_like(ids, -1)
    weights = torch.zeros(len(rows), length)
    for row, (owner, branches) in enumerate(rows):
        start, first = 0, len(documents[owner][0])
        for number, (tokens, shares) in enumerate(branches):
            span = slice(start, start + len(tokens))
            ids[row, span], weights[row, span] = torch.tensor(tokens), torch.tensor(shares)
            positions[row, span] = torch.arange(first, first + len(tokens))
            segments[row, span] = number
            weights[row, start] = 0.0  # what comes before is another conversation
            start += len(tokens)
    owners = torch.tensor([owner for owner, _ in rows])
    return Batch(Group(prefix_ids, prefix_positions), Group(ids, positions, owners, segments), weights)


def stream(tokenizer, seed: int, start: int, documents: int):
    """Endless (index, batch) from batch `start` on; every batch has its own seed, so a resumed run misses nothing."""
    index = start
    while True:
        rng = random.Random(f"{seed}-{index}")
        encoded = []
        for _ in range(documents):
            document = make_document(rng, BRANCHES)
            prefix = tokenizer.encode(document.prefix, add_special_tokens=False).ids
            encoded.append((prefix, [encode_branch(tokenizer, branch) for branch in document.branches]))
        yield index, make_batch(encoded)
        index += 1
