"""Turns documents of the training world into batches of tensors, endlessly and reproducibly."""

import dataclasses
import random

import torch

from model import Group
from world.conversation import make_document

BRANCHES = 16


@dataclasses.dataclass
class Batch:
    """The prefixes, then stacks of branches; `weights` [rows, length] of each stack tell which tokens are targets."""

    groups: list
    weights: list

    def tokens(self) -> int:
        """How many tokens it holds, without padding."""
        return sum(int((group.positions >= 0).sum()) for group in self.groups)

    def targets(self) -> tuple:
        """Places in the hidden states (all groups' tokens in a row) that predict a learned token, and those tokens."""
        places, wanted, start = [], [], self.groups[0].ids.numel()
        for group, counted in zip(self.groups[1:], self.weights):
            row, column = (counted[:, 1:] > 0).nonzero(as_tuple=True)
            places.append(start + row * counted.shape[1] + column)
            wanted.append(group.ids[row, column + 1])
            start += counted.numel()
        return torch.cat(places), torch.cat(wanted)


def encode_branch(tokenizer, branch):
    """Ids and target weights of a branch, segment by segment."""
    ids, weights = [], []
    for segment in branch.segments:
        tokens = tokenizer.encode(segment.text, add_special_tokens=False).ids
        ids += tokens
        weights += [1.0 if segment.learned else 0.0] * len(tokens)
    return ids, weights


def buckets(lengths: list) -> list:
    """Indices of the branches by length, in stacks of about equal length: little padding, few products."""
    ordered = sorted(range(len(lengths)), key=lambda index: lengths[index])
    stacks, shortest = [], 0
    for index in ordered:
        if not stacks or lengths[index] > 1.25 * shortest + 8:
            stacks.append([])
            shortest = lengths[index]
        stacks[-1].append(index)
    return stacks


def make_batch(documents: list) -> Batch:
    """`documents`: (ids of the prefix, encoded branches) each."""
    width = max(len(prefix) for prefix, _ in documents)
    prefix_ids = torch.zeros(len(documents), width, dtype=torch.long)
    prefix_positions = torch.full_like(prefix_ids, -1)
    branches = []
    for index, (prefix, encoded) in enumerate(documents):
        prefix_ids[index, width - len(prefix):] = torch.tensor(prefix)
        prefix_positions[index, width - len(prefix):] = torch.arange(len(prefix))
        branches += [(index, ids, shares) for ids, shares in encoded]
    groups, weights = [Group(prefix_ids, prefix_positions)], []
    for stack in buckets([len(ids) for _, ids, _ in branches]):
        length = max(len(branches[index][1]) for index in stack)
        ids = torch.zeros(len(stack), length, dtype=torch.long)
        positions, counted = torch.full_like(ids, -1), torch.zeros(len(stack), length)
        for row, index in enumerate(stack):
            owner, tokens, shares = branches[index]
            first = len(documents[owner][0])
            ids[row, :len(tokens)], counted[row, :len(tokens)] = torch.tensor(tokens), torch.tensor(shares)
            positions[row, :len(tokens)] = torch.arange(first, first + len(tokens))
        groups.append(Group(ids, positions, torch.tensor([branches[index][0] for index in stack])))
        weights.append(counted)
    return Batch(groups, weights)


def sample_rows(tokenizer, seed: int, rows: int = 80, length: int = 150) -> torch.Tensor:
    """Ends of conversations of the world, [rows, length]: what statistics of its text are taken from."""
    rng, found = random.Random(f"sample {seed}"), []
    while len(found) < rows:
        document = make_document(rng, 1)
        text = document.prefix + "".join(segment.text for segment in document.branches[0].segments)
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        if len(ids) >= length:
            found.append(ids[-length:])
    return torch.tensor(found)


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
