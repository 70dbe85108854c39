"""Turns documents of the training world into batches of tensors, endlessly and reproducibly."""

import dataclasses
import random

import torch

from model import Group
from world.conversation import make_document

POOL_DOCUMENTS = 10
BRANCHES = 14


@dataclasses.dataclass
class Batch:
    """Prefixes and branches; `weights` [branches, length] tells how much each token counts as a target."""

    prefixes: Group
    branches: Group
    weights: torch.Tensor


def encode_branch(tokenizer, branch):
    """Ids and target weights of a branch, cut at the segments so that each is tokenised as the server does."""
    ids, weights = [], []
    for segment in branch.segments:
        tokens = tokenizer.encode(segment.text, add_special_tokens=False).ids
        ids += tokens
        weights += [1.0 if segment.learned else 0.0] * len(tokens)
    return ids, weights


def make_batch(prefixes: list, rows: list) -> Batch:
    """`prefixes`: lists of ids; `rows`: (index of the prefix, ids, weights)."""
    used = sorted({owner for owner, _, _ in rows})
    place = {owner: index for index, owner in enumerate(used)}
    width = max(len(prefixes[owner]) for owner in used)
    prefix_ids = torch.zeros(len(used), width, dtype=torch.long)
    prefix_positions = torch.full_like(prefix_ids, -1)
    for owner in used:
        ids, row = prefixes[owner], place[owner]
        prefix_ids[row, width - len(ids):] = torch.tensor(ids)
        prefix_positions[row, width - len(ids):] = torch.arange(len(ids))
    length = max(len(ids) for _, ids, _ in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    positions = torch.full_like(ids, -1)
    weights = torch.zeros(len(rows), length)
    for row, (owner, tokens, shares) in enumerate(rows):
        start = len(prefixes[owner])
        ids[row, :len(tokens)] = torch.tensor(tokens)
        # Padding goes on counting: it is after the tokens, so none sees it.
        positions[row] = torch.arange(start, start + length)
        weights[row, :len(tokens)] = torch.tensor(shares)
    owners = torch.tensor([place[owner] for owner, _, _ in rows])
    return Batch(Group(prefix_ids, prefix_positions), Group(ids, positions, owners), weights)


def pool(tokenizer, seed: int, index: int, tokens_max: int) -> list:
    """The batches of one pool of documents, rows of like length together, in random order."""
    rng = random.Random(f"{seed}-{index}")
    prefixes, rows = [], []
    for _ in range(POOL_DOCUMENTS):
        document = make_document(rng, BRANCHES)
        for branch in document.branches:
            ids, weights = encode_branch(tokenizer, branch)
            rows.append((len(prefixes), ids, weights))
        prefixes.append(tokenizer.encode(document.prefix, add_special_tokens=False).ids)
    rows.sort(key=lambda row: len(row[1]) + rng.random() * 12)
    batches, current = [], []
    for row in rows:
        longest = max([len(row[1])] + [len(ids) for _, ids, _ in current])
        if current and longest * (len(current) + 1) > tokens_max:
            batches.append(make_batch(prefixes, current))
            current = []
        current.append(row)
    batches.append(make_batch(prefixes, current))
    rng.shuffle(batches)
    return batches


def stream(tokenizer, seed: int, start: int, tokens_max: int):
    """Endless (pool index, batch) from pool `start` on."""
    index = start
    while True:
        for batch in pool(tokenizer, seed, index, tokens_max):
            yield index, batch
        index += 1
