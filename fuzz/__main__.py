"""`python -m fuzz image -max_total_time=300`: fuzz one target; what follows its name goes to libFuzzer."""

import io
import sys
import zipfile
from pathlib import Path

import atheris
from PIL import Image

with atheris.instrument_imports(include=["PIL", "blastlens"]):
    from .targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")


def _image(form: str, **more: object) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((20, 18)).convert("RGB").save(file, form, **more)
    return file.getvalue()


def seeds(target: str) -> dict[str, bytes]:
    """What a fuzzer without a corpus starts from: one good file of each kind."""
    images = {form.lower(): _image(form) for form in _FORMATS}
    images["packed.tiff"] = _image("TIFF", compression="tiff_lzw")
    images["progressive.jpeg"] = _image("JPEG", progressive=True)
    if target == "image":
        return images
    zips = {}
    for name, method in (("stored", zipfile.ZIP_STORED), ("deflated", zipfile.ZIP_DEFLATED)):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as archive:
            archive.writestr("cells/a.png", images["png"])
            archive.writestr("b.png", b"not one")
            archive.writestr("who.csv", "file_name,subject,label\na.png,H1,hem\n")
        zips[name] = file.getvalue()
    return zips


def main() -> None:
    """Fuzz the target named first, for as long as libFuzzer's other arguments say."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"Name a target: {' or '.join(TARGETS)}.")
    target = sys.argv.pop(1)
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.iterdir()):
        for name, data in seeds(target).items():
            (folder / name).write_bytes(data)
    # New finds go into the first folder; where one is given, the corpus is only read.
    given = [one for one in sys.argv[1:] if not one.startswith("-")]
    atheris.Setup([*sys.argv, str(folder)] if given else [sys.argv[0], str(folder), *sys.argv[1:]], TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
