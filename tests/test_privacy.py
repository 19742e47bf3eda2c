"""Where uploads pass through: nobody else reads it, nothing stays in it."""

import os
import subprocess
import sys
import time
from pathlib import Path

from blastlens.scratch import OLDEST_S, sweep

ROOT = Path(__file__).resolve().parents[1]


def test_a_sweep_deletes_what_is_old_at_any_depth_and_nothing_else(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name, age in (("new.png", 10), ("deep/er/old.png", OLDEST_S + 10), ("old.csv", OLDEST_S + 1)):
        (tmp_path / name).write_text("x")
        then = time.time() - age
        os.utime(tmp_path / name, (then, then))
    assert sweep(tmp_path, OLDEST_S) == 2
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["new.png"]


def claimed(environment):
    script = (
        "from blastlens import scratch; folder = scratch.claim(); (folder / 'left.png').write_text('x');"
        "from gradio.utils import get_upload_folder; from gradio.mcp import DEFAULT_TEMP_DIR;"
        "print(folder, oct(folder.stat().st_mode)[-3:], get_upload_folder(), DEFAULT_TEMP_DIR)"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    return run.stdout.split()


def test_the_folder_is_private_used_by_all_of_gradio_and_gone_at_the_end():
    environment = {name: value for name, value in os.environ.items() if name != "GRADIO_TEMP_DIR"}
    folder, rights, *used = claimed(environment)
    assert rights == "700"
    assert used == [folder, folder]
    assert not Path(folder).exists()


def test_a_folder_that_the_operator_names_is_used_and_stays(tmp_path):
    folder, _, *used = claimed(os.environ | {"GRADIO_TEMP_DIR": str(tmp_path)})
    assert used == [folder, folder] == [str(tmp_path)] * 2
    assert (tmp_path / "left.png").exists()
