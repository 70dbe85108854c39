"""Compares antiphon's logits with transformers' (experts dequantised, float32) on the same tokens.

Reads a JSON file that antiphon wrote (its test `embedded_logits_to_a_file`):
{"cases": [{"prompt_ids": [...], "logits": [...]}]}, where `logits` is the row
after the last token, or a list of rows, one for each token.
"""

import json
import pathlib
import sys

import torch

from export import load_with_transformers

DIFFERENCE_MAX = 2e-2  # antiphon multiplies bf16 weights with f32 sums in another order


@torch.no_grad()
def compare(checkpoint: pathlib.Path, theirs: pathlib.Path) -> bool:
    """Prints the largest difference of each case; True when all are small and the best token is the same."""
    model = load_with_transformers(checkpoint)
    good = True
    for index, case in enumerate(json.loads(theirs.read_text())["cases"]):
        found = torch.tensor(case["logits"], dtype=torch.float32)
        expected = model(torch.tensor([case["prompt_ids"]])).logits[0]
        expected = expected if found.dim() == 2 else expected[-1]
        if found.shape != expected.shape:
            print(f"case {index}: shape {tuple(found.shape)}, wanted {tuple(expected.shape)}", file=sys.stderr)
            return False
        worst = (found - expected).abs().max().item()
        values, best = expected.topk(2, -1)
        # A tie may fall either way: the best token counts only where it leads by more than the tolerance.
        clear = values[..., 0] - values[..., 1] > 2 * DIFFERENCE_MAX
        same = bool(((found.argmax(-1) == best[..., 0]) | ~clear).all())
        good = good and same and worst <= DIFFERENCE_MAX
        name = case.get("name", index)
        print(f"case {name}: largest difference {worst:.2e}, same best token: {'yes' if same else 'NO'}")
    print("logits agree" if good else f"LOGITS DIFFER (allowed {DIFFERENCE_MAX:.0e})")
    return good
