"""Muon for the matrices inside the layers, AdamW for everything else, behind one `step`."""

import torch

# Coefficients of the Newton-Schulz iteration that makes a matrix nearly orthogonal (Polar Express, arXiv:2505.16932).
NEWTON_SCHULZ = [(4.0848, -6.8946, 2.9270), (3.9505, -6.3029, 2.6377), (3.7418, -5.5913, 2.3037),
                 (2.8769, -3.1427, 1.2046)]
MATRICES = {"q", "k", "v", "o", "gate_up", "down"}


def orthogonal(gradient):
    """The nearest matrix with equal singular values, roughly; works on stacks of matrices."""
    turned = gradient.shape[-2] > gradient.shape[-1]
    x = gradient.transpose(-1, -2) if turned else gradient
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)).bfloat16()
    for a, b, c in NEWTON_SCHULZ:
        square = x @ x.transpose(-1, -2)
        x = a * x + (b * square + c * (square @ square)) @ x
    return (x.transpose(-1, -2) if turned else x).float()


class Optimizer:
    """Both optimizers with one learning rate; `share` says how much of it embeddings and vectors take."""

    def __init__(self, model, rate: float):
        self.rate = rate
        self.matrices = [value for name, value in model.named_parameters() if name.split(".")[-1] in MATRICES]
        inside = {id(value) for value in self.matrices}
        tables = [model.embedding, model.head]
        vectors = [value for value in model.parameters() if id(value) not in inside | {id(model.embedding), id(model.head)}]
        self.others = tables + vectors
        self.adam = torch.optim.AdamW([{"params": tables, "share": 1.0, "weight_decay": 0.0},
                                       {"params": vectors, "share": 0.5, "weight_decay": 0.0}],
                                      lr=rate, betas=(0.9, 0.98), eps=1e-9)
        self.momenta = [torch.zeros_like(value) for value in self.matrices]

    def step(self, fraction: float) -> float:
        """One update with `fraction` of the learning rate; gives the norm of the gradient outside the matrices."""
        norm = torch.nn.utils.clip_grad_norm_(self.others, 1.0)
        for group in self.adam.param_groups:
            group["lr"] = self.rate * fraction * group["share"]
        self.adam.step()
        with torch.no_grad():
            for value, momentum in zip(self.matrices, self.momenta):
                if value.grad is None:
                    continue
                momentum.lerp_(value.grad, 0.05)
                update = orthogonal(value.grad.lerp(momentum, 0.95))
                size = 0.2 * max(value.shape[-1], value.shape[-2]) ** 0.5
                value.mul_(1 - self.rate * fraction * 0.02).add_(update, alpha=-self.rate * fraction * size)
        for value in self.matrices + self.others:
            value.grad = None
        return float(norm)

    def state(self) -> dict:
        """Everything that a resumed run needs."""
        return {"adam": self.adam.state_dict(), "momenta": self.momenta}

    def restore(self, state: dict) -> None:
        """Takes over what `state` gave."""
        self.adam.load_state_dict(state["adam"])
        self.momenta = state["momenta"]
