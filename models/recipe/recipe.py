"""One command for each step of the recipe, and `all` for the whole of it. See README.md."""

import argparse
import importlib.util
import os
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
NEEDED = ["torch", "transformers", "tokenizers", "safetensors", "accelerate", "numpy"]


def stop_if_packages_are_missing() -> None:
    """Says which packages are missing and how to get them."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f"missing Python packages: {', '.join(missing)}. Install the pinned ones with:\n"
                 f"  {sys.executable} -m pip install -r {HERE / 'requirements.txt'}")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="recipe.py", description=__doc__)
    parser.add_argument("--run", type=pathlib.Path, default=HERE / "run", help="folder of checkpoint and log")
    parser.add_argument("--out", type=pathlib.Path, default=HERE.parent / "tiny", help="folder of the finished model")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("sample", help="prints a document of the training world")
    commands.add_parser("tokenizer", help="trains the tokenizer")
    for name in ("train", "all"):
        training = commands.add_parser(name, help="trains, or resumes" if name == "train" else "every step in order")
        training.add_argument("--minutes", type=float, default=0, help="plan by training time")
        training.add_argument("--tokens", type=int, default=0, help="plan by tokens (reproducible)")
        training.add_argument("--rate", type=float, default=5e-3)
        training.add_argument("--documents", type=int, default=3, help="documents in a batch (about 1,300 tokens each)")
        training.add_argument("--from", type=pathlib.Path, dest="exported", metavar="FOLDER",
                              help="start a new run from an exported model, such as ../tiny")
        training.add_argument("--lengthen", action="store_true", help="with --from: let it match seven tokens, not four")
        training.add_argument("--float32", action="store_true", help="no bf16 autocast")
    blending = commands.add_parser("blend", help="mixes the checkpoint's weights with another model's")
    blending.add_argument("other", type=pathlib.Path, help="folder of an exported model, or of a run")
    blending.add_argument("--share", type=float, default=0.2, help="what the other model's weights count")
    commands.add_parser("export", help="writes the Hugging Face files")
    evaluation = commands.add_parser("evaluate", help="prints the table, fails below the bars")
    for asked in (evaluation, commands.choices["all"]):
        asked.add_argument("--count", type=int, default=300, help="prompts a family in the evaluation")
    evaluation.add_argument("--family", action="append", default=[])
    evaluation.add_argument("--show", action="store_true", help="print wrong answers")
    commands.add_parser("goldens", help="writes golden.json")
    commands.add_parser("card", help="writes the model card from the last evaluation")
    comparison = commands.add_parser("compare", help="antiphon's logits against transformers'")
    comparison.add_argument("logits", type=pathlib.Path)
    return parser.parse_args()


def run_train(options: argparse.Namespace) -> None:
    """Trains with the options; 20 million tokens unless told otherwise."""
    import train
    tokens = options.tokens or (0 if options.minutes else 20_000_000)
    train.train(options.run, options.minutes, tokens, options.rate, options.documents, not options.float32,
                options.exported, options.lengthen)


def run_tokenizer(options: argparse.Namespace) -> None:
    """Trains the tokenizer unless the run has one: a trained model fits only its own."""
    import tokenizer
    if (options.run / "tokenizer.json").exists():
        print("the run has a tokenizer already")
    else:
        print(f"{tokenizer.train(options.run).get_vocab_size()} tokens")


def run_export(options: argparse.Namespace) -> None:
    """Exports the last checkpoint."""
    import export
    import train
    export.export(train.load_model(options.run)[0], options.run, options.out)


def main() -> None:
    """Runs the command."""
    options = arguments()
    stop_if_packages_are_missing()
    import torch
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    if options.command == "sample":
        import random

        from world.conversation import make_document
        document = make_document(random.Random())
        print(document.prefix)
        for branch in document.branches:
            print(f"\n[{branch.family}]\n" + "".join(segment.text for segment in branch.segments))
    if options.command in ("tokenizer", "all"):
        run_tokenizer(options)
    if options.command in ("train", "all"):
        run_train(options)
    if options.command == "blend":
        import train
        train.blend(options.run, options.other, options.share)
    if options.command in ("export", "all"):
        run_export(options)
    if options.command in ("goldens", "all"):
        import goldens
        goldens.make(options.out)
    if options.command in ("evaluate", "all"):
        import evaluate
        reached = evaluate.evaluate(options.run, options.count, getattr(options, "family", []),
                                    getattr(options, "show", False))
    if options.command in ("card", "all"):
        import card
        card.write(options.run, options.out)
    if options.command in ("evaluate", "all") and not reached:
        sys.exit("the model is below the bars: see the table above")
    if options.command == "compare":
        import compare_logits
        if not compare_logits.compare(options.out, options.logits):
            sys.exit(1)


if __name__ == "__main__":
    main()
