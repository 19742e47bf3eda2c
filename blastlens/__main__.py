"""The command line: `python -m blastlens classify IMAGE...` prints what `Classifier` answers.

`python -m blastlens score SOURCE...` is for many images; what it does is in `blastlens.batch_scoring`.
"""

import argparse
import csv
import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TextIO

from . import external_result
from .batch_scoring import command as bulk_command
from .classifier import DISCLAIMER, Classifier, Prediction, suggesting
from .cli_options import Asked, one_line, options
from .corruptions import Corruption
from .errors import BlastlensError
from .hub import fetch
from .images import ACCEPTED
from .model_folder import bundled_models
from .spreadsheet import cell

REFUSED = 3  # exit code
Answer = tuple[str, Prediction]  # an image's path as it was typed, and what the model says about it


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0; 2 if anything could not be answered; with --strict, 3 if everything was and the input check refused something.
    """
    arguments = _parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):  # a file name may hold what the terminal cannot show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about images that get a sentence of our own
        try:
            return arguments.run(arguments)
        except BlastlensError as error:
            print(one_line(str(error)), file=sys.stderr)
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
    shared = options()
    classify = commands.add_parser(
        "classify", parents=[shared], help="say what a model sees in images", epilog=DISCLAIMER
    )
    classify.set_defaults(run=_classify)
    classify.add_argument("images", nargs="+", metavar="IMAGE", help=f"{ACCEPTED} file")
    classify.add_argument("--format", choices=_FORMATS, default="table", help="(default: table)")
    classify.add_argument(
        "--strict",
        action="store_true",
        help="exit with 3 where an image is unlike those the model knows; it is answered all the same",
    )
    bulk_command.add_to(commands, shared)
    return parser


def _classify(arguments: argparse.Namespace) -> int:
    asked = Asked.of(arguments)
    classifier = Classifier.from_pretrained(asked.model, precision=asked.precision)
    answers = []
    failed = False
    outcomes = classifier.predict_each(arguments.images, asked.sigma, asked.seed, asked.corruption, asked.prevalence)
    for image, outcome in zip(arguments.images, outcomes, strict=True):
        if isinstance(outcome, BlastlensError):
            print(one_line(str(outcome)), file=sys.stderr)
            failed = True
        else:
            answers.append((image, outcome))
    refused = any(p.in_domain is False for _, p in answers)
    if refused:
        others = _other_models(classifier)
        answers = [(image, suggesting(p, image, others)) for image, p in answers]
    if answers:
        _FORMATS[arguments.format](answers, sys.stdout)
        sys.stdout.flush()
    if failed:
        return 2
    return REFUSED if refused and arguments.strict else 0


def _other_models(classifier: Classifier) -> list[Classifier]:
    """The bundled models that could know an image which this one does not."""
    others = []
    for name in bundled_models():
        with suppress(BlastlensError):  # one that cannot be used cannot be suggested
            folder = fetch(name)
            if folder.gate and name != classifier.folder.model_id:
                others.append(Classifier(folder))
    return others


def _write_table(answers: Sequence[Answer], out: TextIO) -> None:
    first = answers[0][1]
    texts = {"image": [image for image, _ in answers], "label": [p.label for _, p in answers]}
    numbers = {
        label: [f"{p.probabilities[label]:.4f}" for _, p in answers]  # in the model's order
        for label in first.probabilities
    }
    # Only what the model can tell has a column.
    told = {
        "set": [None if p.label_set is None else " or ".join(p.label_set) or "none" for _, p in answers],
        "flagged": [_yes_or_no(p.flagged) for _, p in answers],
        "fits": [_yes_or_no(p.in_domain) for _, p in answers],
    }
    columns = [_column(name, cells, str.ljust) for name, cells in texts.items()]
    columns += [_column(name, cells, str.rjust) for name, cells in numbers.items()]
    columns += [
        _column(name, [one or "" for one in cells], str.ljust)
        for name, cells in told.items()
        if any(one is not None for one in cells)
    ]
    for row in zip(*columns, strict=True):
        print(one_line("  ".join(row)), file=out)  # labels come with the model, and with some models from strangers
    print(file=out)
    print(one_line(f"note: {first.warnings[0]}"), file=out)
    for image, p in answers:
        for warning in external_result.of_image(p.warnings):
            print(one_line(f"note: {image}: {warning}"), file=out)
        if p.suggestion:
            print(one_line(f"note: {image}: it fits another model; try --model {p.suggestion}"), file=out)
    revision = f" at {first.revision}" if first.revision else ""
    corruption = f", corruption {_corruption(first)}" if first.corruption else ""
    model = one_line(f"Model {first.model_id}{revision}")
    assumed = "" if first.prevalence is None else f", assumed prevalence {first.prevalence:.3g}"
    print(f"{model}, noise sigma {first.sigma:g}{corruption}{assumed}. {first.disclaimer}", file=out)


def _column(name: str, cells: Sequence[str], align: Callable[[str, int], str]) -> list[str]:
    width = max(map(len, (name, *cells)))
    return [align(name, width), "-" * width, *(align(one, width) for one in cells)]


def _yes_or_no(value: bool | None) -> str | None:
    return None if value is None else "yes" if value else "no"


def _write_json(answers: Sequence[Answer], out: TextIO) -> None:
    json.dump([{"image": image} | p.to_dict() for image, p in answers], out, indent=2)
    print(file=out)


def _write_csv(answers: Sequence[Answer], out: TextIO) -> None:
    # In quotes, or a spreadsheet that parts cells at semicolons would find a formula inside of a name.
    writer = csv.writer(out, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    labels = list(answers[0][1].probabilities)
    columns = ["image", "label", *labels, "sigma", "corruption", "prevalence", "model_id", "revision"]
    columns += ["in_domain", "label_set", "flagged", "suggestion", "warnings", "disclaimer"]
    writer.writerow(cell(column) for column in columns)
    for image, p in answers:
        labels_left = None if p.label_set is None else " ".join(p.label_set)
        texts = [
            _corruption(p),
            p.prevalence,
            p.model_id,
            p.revision,
            p.in_domain,
            labels_left,
            p.flagged,
            p.suggestion,
        ]
        texts += ["; ".join(p.warnings), p.disclaimer]
        values = [image, p.label, *p.probabilities.values(), p.sigma, *texts]
        writer.writerow(cell(value) for value in values)


def _corruption(prediction: Prediction) -> str:
    return str(Corruption(**prediction.corruption)) if prediction.corruption else ""


_FORMATS: dict[str, Callable[[Sequence[Answer], TextIO], None]] = {
    "table": _write_table,
    "json": _write_json,
    "csv": _write_csv,
}


if __name__ == "__main__":
    sys.exit(main())
