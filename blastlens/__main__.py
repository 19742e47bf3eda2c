"""The command line: `python -m blastlens classify IMAGE...`. Prints what `Classifier` answers."""

import argparse
import csv
import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import TextIO

from .classifier import DISCLAIMER, Classifier, Prediction
from .corruptions import KINDS, Corruption
from .errors import BlastlensError
from .images import ACCEPTED
from .model_folder import PRECISIONS, bundled_models, fetch
from .spreadsheet import cell

Answer = tuple[str, Prediction]  # an image's path as it was typed, and what the model says about it


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, or 2 if anything could not be answered."""
    arguments = _parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):  # a file name may hold what the terminal cannot show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about images that get a sentence of our own
        try:
            return _classify(arguments)
        except BlastlensError as error:
            print(_one_line(str(error)), file=sys.stderr)
            return 2
        except BrokenPipeError:  # the reader, such as `head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 2
        except KeyboardInterrupt:
            return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m blastlens", description="Leukemia (ALL) screening models.", epilog=DISCLAIMER
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    classify = commands.add_parser("classify", help="say what a model sees in images", epilog=DISCLAIMER)
    classify.add_argument("images", nargs="+", metavar="IMAGE", help=f"{ACCEPTED} file")
    classify.add_argument(
        "--model",
        help="bundled name, folder, or Hub owner/name[@revision] (default: the first bundled single-cell model)",
    )
    classify.add_argument("--sigma", type=float, default=0.0, help="add Gaussian noise, 0 to 100 on the 0 to 255 scale")
    classify.add_argument(
        "--corruption",
        metavar="KIND:LEVEL",
        help=f"make the image worse first, such as jpeg:40; kinds: {', '.join(KINDS)}",
    )
    classify.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    classify.add_argument("--precision", choices=PRECISIONS, default="fp32", help="(default: fp32)")
    classify.add_argument("--format", choices=_FORMATS, default="table", help="(default: table)")
    return parser


def _classify(arguments: argparse.Namespace) -> int:
    corruption = None if arguments.corruption is None else Corruption.parse(arguments.corruption)
    classifier = Classifier.from_pretrained(arguments.model or _default_model(), precision=arguments.precision)
    answers = []
    failed = False
    outcomes = classifier.predict_each(arguments.images, arguments.sigma, arguments.seed, corruption)
    for image, outcome in zip(arguments.images, outcomes, strict=True):
        if isinstance(outcome, BlastlensError):
            print(_one_line(str(outcome)), file=sys.stderr)
            failed = True
        else:
            answers.append((image, outcome))
    if answers:
        _FORMATS[arguments.format](answers, sys.stdout)
        sys.stdout.flush()
    return 2 if failed else 0


def _default_model() -> str:
    for name in bundled_models():
        if fetch(name).view.frame is not None:
            return name
    raise BlastlensError("No single-cell model is bundled; name a model with --model.")


def _write_table(answers: Sequence[Answer], out: TextIO) -> None:
    first = answers[0][1]
    rows = [["image", "label", *first.probabilities]]
    rows += [
        [_one_line(image), p.label, *(f"{value:.4f}" for value in p.probabilities.values())] for image, p in answers
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rows.insert(1, ["-" * width for width in widths])
    for row in rows:
        texts = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
        numbers = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        print("  ".join(texts + numbers), file=out)
    print(file=out)
    for image, p in answers:
        for warning in p.warnings:
            print(f"note: {_one_line(image)}: {warning}", file=out)
    revision = f" at {first.revision}" if first.revision else ""
    corruption = f", corruption {_corruption(first)}" if first.corruption else ""
    print(f"Model {first.model_id}{revision}, noise sigma {first.sigma:g}{corruption}. {first.disclaimer}", file=out)


def _write_json(answers: Sequence[Answer], out: TextIO) -> None:
    json.dump([{"image": image} | p.to_dict() for image, p in answers], out, indent=2)
    print(file=out)


def _write_csv(answers: Sequence[Answer], out: TextIO) -> None:
    writer = csv.writer(out, lineterminator="\n")
    labels = list(answers[0][1].probabilities)
    columns = ["image", "label", *labels, "sigma", "corruption", "model_id", "revision"]
    columns += ["in_domain", "warnings", "disclaimer"]
    writer.writerow(cell(column) for column in columns)
    for image, p in answers:
        texts = [_corruption(p), p.model_id, p.revision, p.in_domain, "; ".join(p.warnings), p.disclaimer]
        values = [image, p.label, *p.probabilities.values(), p.sigma, *texts]
        writer.writerow(cell(value) for value in values)


def _corruption(prediction: Prediction) -> str:
    return str(Corruption(**prediction.corruption)) if prediction.corruption else ""


def _one_line(text: str) -> str:
    """The text without line breaks and terminal control codes, which a file name may hold."""
    return "".join(character if character.isprintable() else "?" for character in text)


_FORMATS: dict[str, Callable[[Sequence[Answer], TextIO], None]] = {
    "table": _write_table,
    "json": _write_json,
    "csv": _write_csv,
}


if __name__ == "__main__":
    sys.exit(main())
