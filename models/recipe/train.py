"""Trains the model: seeded, with progress lines and checkpoints, and resumes where it was stopped.

The learning rate rises for 60 steps, stays, and falls to nothing over the last part of the plan. The plan is a number
of tokens (`--tokens`, reproducible) or of minutes of training time (`--minutes`, for a machine that is shared).
"""

import json
import os
import pathlib
import time

import torch
import torch.nn.functional as F

import batches
import circuit
import export
import tokenizer as tokenizers
from model import Config, Model
from optimizer import Optimizer

SEED = 1
WARM_STEPS = 60
FLAT_UNTIL = 0.25
QUANTISE_FROM = 0.55
BALANCE_SHARE = 0.01
CHECKPOINT_SECONDS = 180


def rate_fraction(step: int, progress: float) -> float:
    """The share of the learning rate at this step, `progress` being the share of the plan that is done."""
    warm = min(1.0, (step + 1) / WARM_STEPS)
    fall = 1.0 if progress < FLAT_UNTIL else max(0.0, (1 - progress) / (1 - FLAT_UNTIL))
    return warm * max(0.01, fall)


def batch_loss(model: Model, batch: batches.Batch, quantise: bool, half: bool):
    """Mean cross-entropy over the learned tokens, and the balancing loss."""
    dtype = torch.bfloat16 if half else torch.float32
    hidden, balance = model(batch.groups, quantise, dtype)
    places, wanted = batch.targets()
    logits = F.linear(hidden.index_select(0, places), model.head.to(dtype))
    return F.cross_entropy(logits.float(), wanted), balance


def new_model(tokenizer) -> Model:
    """A model with the copying circuit laid down."""
    torch.manual_seed(SEED)
    model = Model(Config(vocab_size=tokenizer.get_vocab_size()))
    circuit.lay_circuit(model, [tokenizer.id_to_token(index) for index in range(tokenizer.get_vocab_size())])
    letters = [tokenizer.token_to_id(letter) for letter in "abcdefghijklmnopqrstuvwxyz"]
    print(f"parameters {sum(value.numel() for value in model.parameters()):,}, "
          f"copy loss at initialisation {circuit.copy_loss(model, letters):.4f}", flush=True)
    return model


@torch.no_grad()
def adopted_model(tokenizer, exported: pathlib.Path) -> Model:
    """The model of an exported checkpoint under this run's tokenizer.

    A token that the checkpoint knows keeps its rows. A new one starts as the mean of the tokens that it used to be cut
    into, with a random code in the stream's first part and in the output part what such a code is answered with there.
    """
    model, theirs = export.read(exported), tokenizers.load(exported)
    known, generator = theirs.get_vocab(), torch.Generator().manual_seed(SEED)
    old, head = model.embedding.clone(), model.head.clone()
    answer = torch.linalg.lstsq(old[:, circuit.CODE], head[:, circuit.OUTPUT]).solution
    fresh = 0
    for token, index in tokenizer.get_vocab().items():
        if token in known:
            model.embedding[index], model.head[index] = old[known[token]], head[known[token]]
            continue
        parts = theirs.encode(tokenizer.decode([index]), add_special_tokens=False).ids
        model.embedding[index], model.head[index] = old[parts].mean(0), head[parts].mean(0)
        code = torch.randn(circuit.CODE.stop, generator=generator) * old[:, circuit.CODE].std()
        model.embedding[index, circuit.CODE], model.head[index, circuit.OUTPUT] = code, code @ answer
        fresh += 1
    print(f"goes on from {exported}: {fresh} of {len(old)} tokens are new", flush=True)
    return model


def save(folder: pathlib.Path, model: Model, optimizer: Optimizer, state: dict) -> None:
    """Writes the checkpoint in one go: the last good one stays if this is stopped half way."""
    target = folder / "checkpoint.pt"
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state(), **state}, target.with_suffix(".new"))
    os.replace(target.with_suffix(".new"), target)


def load_model(folder: pathlib.Path) -> tuple:
    """The model of the last checkpoint in `folder`, and the checkpoint."""
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)
    model = Model(Config(vocab_size=saved["model"]["embedding"].shape[0]))
    model.load_state_dict(saved["model"])
    return model.eval(), saved


@torch.no_grad()
def blend(folder: pathlib.Path, other: pathlib.Path, share: float) -> None:
    """Replaces the checkpoint's weights by a mean with those of `other`, an exported model or a run, which get `share`.

    A short run from an exported model learns what is new and forgets a little of the rest; the mean keeps both.
    """
    saved = load_model(folder)[1]
    is_run = (other / "checkpoint.pt").exists()
    earlier = (load_model(other)[0] if is_run else export.read(other)).state_dict()
    for name, value in saved["model"].items():
        value.lerp_(earlier[name], share)
    target = folder / "checkpoint.pt"
    torch.save(saved, target.with_suffix(".new"))
    os.replace(target.with_suffix(".new"), target)


def train(folder: pathlib.Path, minutes: float, tokens: int, rate: float, documents: int, half: bool,
          exported: pathlib.Path | None = None, lengthen: bool = False) -> None:
    """Trains until the plan is done; `folder` holds the tokenizer, the checkpoint and the log.

    A new run starts from the model in `exported` where one is given, its match made longer if `lengthen`.
    """
    tokenizer = tokenizers.load(folder)
    if (folder / "checkpoint.pt").exists():
        model, saved = load_model(folder)
        model.train()
        optimizer = Optimizer(model, rate)
        optimizer.restore(saved["optimizer"])
        state = {key: saved[key] for key in ("step", "tokens", "seconds")}
        print(f"resumed at step {state['step']}, {state['tokens']:,} tokens", flush=True)
    else:
        model = adopted_model(tokenizer, exported) if exported else new_model(tokenizer)
        if lengthen:
            circuit.lengthen(model, batches.sample_rows(tokenizer, SEED))
        optimizer = Optimizer(model, rate)
        state = {"step": 0, "tokens": 0, "seconds": 0.0}
    log = open(folder / "train.jsonl", "a", encoding="utf-8")
    smooth, mark, mark_tokens, saved_at = None, time.time(), state["tokens"], time.time()
    for _, batch in batches.stream(tokenizer, SEED, state["step"], documents):
        began = time.time()
        progress = state["tokens"] / tokens if tokens else state["seconds"] / (60 * minutes)
        if progress >= 1:
            break
        loss, balance = batch_loss(model, batch, progress >= QUANTISE_FROM, half)
        (loss + BALANCE_SHARE * balance).backward()
        norm = optimizer.step(rate_fraction(state["step"], progress))
        state["step"] += 1
        state["tokens"] += batch.tokens()
        state["seconds"] += time.time() - began
        smooth = loss.item() if smooth is None else 0.97 * smooth + 0.03 * loss.item()
        if state["step"] % 20 == 0:
            speed = (state["tokens"] - mark_tokens) / (time.time() - mark)
            mark, mark_tokens = time.time(), state["tokens"]
            line = {"step": state["step"], "tokens": state["tokens"], "seconds": round(state["seconds"]),
                    "progress": round(progress, 3), "loss": round(smooth, 4), "balance": round(balance.item(), 3),
                    "norm": round(norm, 2), "tokens_per_s": round(speed)}
            print(json.dumps(line), flush=True)
            log.write(json.dumps(line) + "\n")
            log.flush()
        if time.time() - saved_at > CHECKPOINT_SECONDS:
            save(folder, model, optimizer, state)
            saved_at = time.time()
    save(folder, model, optimizer, state)
    print("done", json.dumps(state), flush=True)
