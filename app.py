"""The page's entry point, locally and on a Space.

It listens on 127.0.0.1:7860 unless GRADIO_SERVER_NAME and GRADIO_SERVER_PORT say otherwise.
"""

import signal
import sys

from blastlens import temp_files
from blastlens.errors import BlastlensError
from blastlens.serving import begin

uploads = temp_files.claim()  # Gradio reads the folder for uploads when it is imported

try:
    import spaces  # only a Space has it
except ImportError:
    pass
else:
    # ZeroGPU, on which free Spaces run, requires a function that may use the GPU. This one is never called: a
    # prediction takes milliseconds on the CPU, and waiting for a GPU takes seconds.
    @spaces.GPU
    def declared_for_zero_gpu() -> None:
        """Does nothing."""


try:
    models = begin()  # models of the Hub are downloaded during the imports below, which take seconds
    from blastlens.ui import build, forget, launch

    demo = build(models)
except BlastlensError as error:  # the configured models or limits cannot be used
    sys.exit(str(error))
temp_files.keep_clean(uploads, lambda: forget(demo, temp_files.keep_s()))

if __name__ == "__main__":
    # A host stops the page by SIGTERM; a regular exit deletes the uploads.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        launch(demo)
    except BlastlensError as error:
        sys.exit(str(error))
