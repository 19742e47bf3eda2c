"""The command line: `python -m blastlens`, or `blastlens` where the package is installed.

`python -m blastlens classify IMAGE...` prints predictions; `python -m blastlens score SOURCE... --out FILE` scores any
number of images into a Parquet file (see `blastlens.batch_scoring`).
"""

import argparse
import glob
import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from . import external_result, files
from .classifier import Classifier, suggesting
from .corruptions import KINDS, Corruption
from .errors import BlastlensError
from .hub import fetch
from .images import ACCEPTED
from .model_folder import PRECISIONS, bundled_models
from .predictions import DISCLAIMER, Prediction
from .spreadsheet import cell, to_csv
from .wording import count

FAILED, REFUSED, STOPPED = 2, 3, 130  # exit codes
Row = tuple[str, Prediction]  # an image's path as it was typed, and its prediction

_SCORE_EPILOG = f"""
Rerun the command to resume after an interruption. Until all is done, finished results are in a folder beside the
output, of the same name with ".parts".

Exit code: 0 if every image was scored, 2 if some were not (the column "error" says why) or nothing could be scored.
{DISCLAIMER}"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0; 2 if an image or the whole request failed; with --strict, 3 if none failed and one is out of distribution.
    """
    arguments = _parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):  # a file name may hold characters that the terminal cannot show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about images that get a message of ours
        try:
            return arguments.run(arguments)
        except BlastlensError as error:
            print(_one_line(error), file=sys.stderr)
            return FAILED
        except BrokenPipeError:  # the reader, such as `head`, has stopped
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return FAILED
        except KeyboardInterrupt as stopped:
            if str(stopped):
                print(_one_line(stopped), file=sys.stderr)
            return STOPPED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m blastlens", description="Leukemia (ALL) screening models.", epilog=DISCLAIMER
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    shared = _model_options()
    classify = commands.add_parser("classify", parents=[shared], help="classify images", epilog=DISCLAIMER)
    classify.set_defaults(run=_classify)
    classify.add_argument("images", nargs="+", metavar="IMAGE", help=f"{ACCEPTED} file, or a pattern such as '*.png'")
    classify.add_argument("--format", choices=_FORMATS, default="table", help="(default: table)")
    classify.add_argument(
        "--strict", action="store_true", help="exit with 3 if an image is out of distribution; it is classified anyway"
    )
    score = commands.add_parser(
        "score",
        parents=[shared],
        help="score any number of images into one Parquet file",
        description="Score any number of images into one Parquet file, a row for each.",
        epilog=_SCORE_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    score.set_defaults(run=_score)
    sources = f"folder, with all folders in it; zip; {ACCEPTED} file; or a quoted pattern such as 'archive/**/*.bmp'"
    score.add_argument("sources", nargs="+", metavar="SOURCE", help=sources)
    score.add_argument("--out", required=True, metavar="FILE", help="the Parquet file to write")
    score.add_argument(
        "--by-subject",
        nargs="?",
        const="",
        metavar="TABLE",
        help="also write FILE.subjects.csv: one decision per subject, or none where the model must abstain; subjects "
        "are those of a CSV table of file_name and subject, or else of names as in C-NMC 2019, or else the folders",
    )
    score.add_argument("--overwrite", action="store_true", help="replace FILE if it exists, once all is done")
    score.add_argument("--engine", choices=("local", "ray"), default="local", help="(default: local)")
    score.add_argument("--workers", type=int, metavar="N", help="threads or Ray actors (default: one per core)")
    score.add_argument(
        "--ray-address",
        metavar="ADDRESS",
        help="of a running Ray cluster, with --engine ray; all its machines must see the same files and have blastlens "
        "(default: start one here)",
    )
    return parser


def _model_options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--model",
        help="bundled name, folder, or Hub owner/name[@revision] (default: the first bundled single-cell model)",
    )
    parser.add_argument("--sigma", type=float, default=0.0, help="add Gaussian noise, 0 to 100 on the 0 to 255 scale")
    parser.add_argument(
        "--corruption",
        metavar="KIND:LEVEL",
        help=f"corrupt the image first, as in jpeg:40; kinds: {', '.join(KINDS)}",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    parser.add_argument(
        "--prevalence", type=float, help="share of leukemic images that probabilities assume (default: the model's own)"
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="(default: fp32)")
    return parser


def _default_model() -> str:
    for name in bundled_models():
        if fetch(name).view.frame is not None:
            return name
    raise BlastlensError(
        "No single-cell model is bundled; name one of the Hub or a folder with --model, or set BLASTLENS_MODELS to the "
        "folder models/ of the repository."
    )


def _one_line(text: object) -> str:
    """Without line breaks and terminal control codes, which a file name or a label may hold."""
    return "".join(character if character.isprintable() else "?" for character in str(text))


# classify ------------------------------------------------------------------------------------------------------------


def _matching(typed: str) -> list[str]:
    """The files that a pattern matches, which some shells leave to the program; what matches nothing stays as it is."""
    return [typed] if os.path.lexists(typed) else sorted(glob.glob(typed, recursive=True)) or [typed]


def _classify(arguments: argparse.Namespace) -> int:
    corruption = Corruption.parse(arguments.corruption) if arguments.corruption else None
    classifier = Classifier.from_pretrained(arguments.model or _default_model(), precision=arguments.precision)
    images = [name for typed in arguments.images for name in _matching(typed)]
    outcomes = classifier.predict_each(images, arguments.sigma, arguments.seed, corruption, arguments.prevalence)
    rows = []
    failed = False
    for image, outcome in zip(images, outcomes, strict=True):
        if isinstance(outcome, BlastlensError):
            print(_one_line(outcome), file=sys.stderr)
            failed = True
        else:
            rows.append((image, outcome))
    refused = any(p.in_domain is False for _, p in rows)
    if refused:
        others = _other_models(classifier)
        rows = [(image, suggesting(p, image, others)) for image, p in rows]
    if rows:
        _FORMATS[arguments.format](rows, sys.stdout)
        sys.stdout.flush()
    if failed:
        return FAILED
    return REFUSED if refused and arguments.strict else 0


def _other_models(classifier: Classifier) -> list[Classifier]:
    """The bundled models that may fit an image which this one rejects."""
    others = []
    for name in bundled_models():
        with suppress(BlastlensError):  # one that cannot be used cannot be suggested
            folder = fetch(name)
            if folder.ood_detector and name != classifier.folder.model_id:
                others.append(Classifier(folder))
    return others


def _write_table(rows: Sequence[Row], out: TextIO) -> None:
    first = rows[0][1]
    columns = [
        _column("image", [image for image, _ in rows], str.ljust),
        _column("label", [p.label for _, p in rows], str.ljust),
    ]
    for label in first.probabilities:  # in the model's order
        columns.append(_column(label, [f"{p.probabilities[label]:.4f}" for _, p in rows], str.rjust))
    optional = {
        "set": [None if p.label_set is None else " or ".join(p.label_set) or "none" for _, p in rows],
        "flagged": [None if p.flagged is None else str(cell(p.flagged)) for _, p in rows],
        "fits": [None if p.in_domain is None else str(cell(p.in_domain)) for _, p in rows],
    }
    for name, cells in optional.items():
        if any(one is not None for one in cells):
            columns.append(_column(name, [one or "" for one in cells], str.ljust))
    lines = ["  ".join(line) for line in zip(*columns, strict=True)]
    lines += ["", f"note: {first.warnings[0]}"]
    for image, p in rows:
        lines += [f"note: {image}: {warning}" for warning in external_result.of_image(p.warnings)]
        if p.suggestion:
            lines.append(f"note: {image}: it fits another model; try --model {p.suggestion}")
    revision = f" at {first.revision}" if first.revision else ""
    corruption = f", corruption {_corruption_of(first)}" if first.corruption else ""
    assumed = "" if first.prevalence is None else f", assumed prevalence {first.prevalence:.3g}"
    noise = f", noise sigma {first.sigma:g}{corruption}{assumed}"
    lines.append(f"Model {first.model_id}{revision}{noise}. {first.disclaimer}")
    for line in lines:
        print(_one_line(line), file=out)


def _column(name: str, cells: Sequence[str], align: Callable[[str, int], str]) -> list[str]:
    width = max(map(len, (name, *cells)))
    return [align(name, width), "-" * width, *(align(one, width) for one in cells)]


def _write_json(rows: Sequence[Row], out: TextIO) -> None:
    json.dump([{"image": image} | p.to_dict() for image, p in rows], out, indent=2)
    print(file=out)


def _write_csv(rows: Sequence[Row], out: TextIO) -> None:
    out.write(to_csv((_csv_row(image, p) for image, p in rows), line_end="\n"))


def _csv_row(image: str, p: Prediction) -> dict[str, object]:
    return {
        "image": image,
        "label": p.label,
        **p.probabilities,
        "sigma": p.sigma,
        "corruption": _corruption_of(p),
        "prevalence": p.prevalence,
        "model_id": p.model_id,
        "revision": p.revision,
        "in_domain": p.in_domain,
        "label_set": None if p.label_set is None else " ".join(p.label_set),
        "flagged": p.flagged,
        "suggestion": p.suggestion,
        "warnings": "; ".join(p.warnings),
        "disclaimer": p.disclaimer,
    }


def _corruption_of(prediction: Prediction) -> str:
    return str(Corruption(**prediction.corruption)) if prediction.corruption else ""


_FORMATS: dict[str, Callable[[Sequence[Row], TextIO], None]] = {
    "table": _write_table,
    "json": _write_json,
    "csv": _write_csv,
}


# score ---------------------------------------------------------------------------------------------------------------


def _score(arguments: argparse.Namespace) -> int:
    if arguments.ray_address is not None and arguments.engine != "ray":
        raise BlastlensError("--ray-address names a Ray cluster; give --engine ray with it.")
    corruption = Corruption.parse(arguments.corruption) if arguments.corruption else None
    try:
        from .batch_scoring.score import Command, score
    except ImportError as error:
        raise BlastlensError(
            f"Batch scoring needs {error.name}, which is not installed; install it with pip install {error.name}."
        ) from error
    report = score(
        Command(
            tuple(arguments.sources),
            arguments.model or _default_model(),
            arguments.precision,
            arguments.sigma,
            arguments.seed,
            corruption,
            arguments.prevalence,
            arguments.by_subject is not None,
            arguments.by_subject or None,
        ),
        arguments.out,
        arguments.engine,
        arguments.workers,
        arguments.ray_address,
        arguments.overwrite,
        show_progress=True,
    )
    earlier = report.images - report.scored
    print(
        f"{count(report.images, 'image')} in {_one_line(arguments.out)}"
        f"{f' ({earlier:,} scored by earlier runs)' if earlier else ''}: {report.failed:,} failed, "
        f"{report.unlike:,} out of distribution, {report.seconds:,.1f} s, {report.rate:,.1f} images per second. "
        f"{DISCLAIMER}"
    )
    if arguments.by_subject is not None:
        _write_decisions(arguments)
    return FAILED if report.failed else 0


def _write_decisions(arguments: argparse.Namespace) -> None:
    """Write and print one decision per subject of the results."""
    from .batch_scoring.by_subject import decisions

    classifier = Classifier.from_pretrained(arguments.model or _default_model(), precision=arguments.precision)
    decider = classifier.decider
    if decider is None:  # as BatchScorer has checked before
        return
    rows = list(decisions(Path(arguments.out), classifier, decider))
    text = to_csv(rows, line_end="\n")
    files.replace(Path(f"{arguments.out}.subjects.csv"), lambda part: part.write_text(text, encoding="utf-8"))
    shown = {
        "subject": [str(row["subject"]) for row in rows],
        "images": [str(row["images"]) for row in rows],
        "mean": [f"{row['mean_probability']:.3f}" for row in rows],
        "decision": [str(row["decision"] or f"none: {row['no_decision_because']}") for row in rows],
    }
    columns = [_column(name, cells, str.ljust) for name, cells in shown.items()]
    for line in ("  ".join(parts) for parts in zip(*columns, strict=True)):
        print(_one_line(line).rstrip())
    print(f"note: {external_result.sentence(classifier.folder.metrics)}\nnote: {decider.measured}")
