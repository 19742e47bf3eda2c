"""The demo's entry point, on a desk and on a Space.

It listens on 127.0.0.1:7860 unless GRADIO_SERVER_NAME and GRADIO_SERVER_PORT say otherwise.
"""

import signal
import sys

from blastlens import temp_files
from blastlens.errors import BlastlensError
from blastlens.serving import begin

# Before Gradio is imported, which asks only once where uploads go.
uploads = temp_files.claim()

try:
    import spaces  # a Space has it; nobody else needs it
except ImportError:
    pass
else:
    # A free Space runs on ZeroGPU, which does not start a program without a function that may use the GPU. Nobody
    # calls this one: on the CPU an answer takes milliseconds, and waiting for a GPU would take seconds of it.
    @spaces.GPU
    def declared_for_zero_gpu() -> None:
        """Does nothing, and is there to be found."""


try:
    models = begin()  # asks the Hub for its models, if any, beside the imports below, which take seconds
except BlastlensError as error:  # what the operator asked for cannot be served
    sys.exit(str(error))

from blastlens.ui import build, forget, launch  # noqa: E402
from blastlens.ui.logging import keep_quiet  # noqa: E402
from blastlens.ui.rate_limit import trust_the_host  # noqa: E402

keep_quiet()
trust_the_host()
try:
    demo = build(models)
except BlastlensError as error:  # as above
    sys.exit(str(error))
temp_files.keep_clean(uploads, lambda: forget(demo, temp_files.keep_s()))

if __name__ == "__main__":
    # A host stops the page by a signal; to end as by a plain exit lets what visitors uploaded be deleted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    launch(demo)
