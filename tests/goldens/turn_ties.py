"""What the goldens would be had a router's near tie fallen the other way: python turn_ties.py DIR NAMES, after golden_dev.py.

A router's near tie: the last expert that a row goes to leads the next one by less than LEAD_MAX. For each, in a prompt or its continuation,
the model is computed once more with these two exchanged in that layer at that position, all else by its own code, on the golden's own tokens.
Written are the rows of logits that golden_logits.safetensors has too and that differ by more than DISTANCE_MIN, and the continuation's tokens
that differ.
"""
import json, sys, torch
from transformers import GptOssForCausalLM, Mxfp4Config
from safetensors.torch import load_file, save_file

LEAD_MAX = 0.01
DISTANCE_MIN = 0.01

torch.set_num_threads(1)
base, names = sys.argv[1], sys.argv[2:]


class Ties:
    """Watches the routers' leads, and turns the tie at `turned`, a layer and a position."""

    def __init__(self, model):
        self.top_k, self.leads, self.turned = model.config.num_experts_per_tok, {}, None
        for index, layer in enumerate(model.model.layers):
            layer.mlp.router.register_forward_hook(lambda _router, _inputs, output, index=index: self.route(index, *output))

    def route(self, layer, logits, scores, experts):
        top = logits.topk(self.top_k + 1)
        self.leads[layer] = top.values[:, -2] - top.values[:, -1]
        if self.turned and self.turned[0] == layer:
            position, chosen = self.turned[1], [*range(self.top_k - 1), self.top_k]
            scores[position] = torch.softmax(top.values[position, chosen], 0)
            experts[position] = top.indices[position, chosen]
        return logits, scores, experts


def distance(rows, expected):
    return (rows - expected).norm(dim=-1) / expected.norm(dim=-1)


for name in names:
    packed = "quantization_config" in json.load(open(f"{base}/{name}/config.json"))
    dequantized = dict(quantization_config=Mxfp4Config(dequantize=True)) if packed else {}
    model = GptOssForCausalLM.from_pretrained(f"{base}/{name}", **dequantized, dtype=torch.float32, attn_implementation="eager").eval()
    ties, expected = Ties(model), load_file(f"{base}/{name}/golden_logits.safetensors")
    turned, tensors = [], {}
    for case in json.load(open(f"{base}/{name}/golden.json"))["cases"]:
        prompt, greedy, last = case["prompt"], [step["token"] for step in case["greedy"]], len(case["prompt"]) - 1
        first = 0 if case["rows"] == "all" else last

        def compute(tie):
            ties.turned = tie
            with torch.no_grad():
                logits = model(torch.tensor([prompt + greedy])).logits[0].float()
            return logits[first : last + 1], logits[last:-1].argmax(-1).tolist()

        rows, tokens = compute(None)
        assert (rows - expected[case["logits"]]).abs().max() < 1e-4 and tokens == greedy, "another model"
        near = [(float(lead), layer, position) for layer, leads in ties.leads.items() for position, lead in enumerate(leads) if lead < LEAD_MAX]
        for lead, layer, position in near:
            other_rows, other_tokens = compute((layer, position))
            apart = (distance(other_rows, rows) > DISTANCE_MIN).nonzero()[:, 0].tolist()
            differ = [[step, token] for step, token in enumerate(other_tokens) if token != greedy[step]]
            if apart or differ:
                tie = dict(case=case["logits"], layer=layer, position=position, lead=round(lead, 6), rows=[first + row for row in apart], tokens=differ)
                if apart:
                    tie["logits"] = f"{case['logits']}/{layer}/{position}"
                    tensors[tie["logits"]] = other_rows[apart].contiguous()
                turned.append(tie)
    save_file(tensors, f"{base}/{name}/turned_logits.safetensors")
    made = f"as golden.json, each with one router's tie turned: leads below {LEAD_MAX}, rows further than {DISTANCE_MIN} from the golden's"
    json.dump(dict(made=made, ties=turned), open(f"{base}/{name}/turned.json", "w"))
    print(name, len(turned), "ties,", sum(len(tie["rows"]) for tie in turned), "rows,", sum(len(tie["tokens"]) for tie in turned), "tokens")
