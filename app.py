"""The demo's entry point, on a desk and on a Space.

It listens on 127.0.0.1:7860 unless GRADIO_SERVER_NAME and GRADIO_SERVER_PORT say otherwise.
"""

import signal
import sys

from blastlens import scratch
from blastlens.arenas import share_arenas
from blastlens.errors import BlastlensError

share_arenas()
# Before Gradio is imported, which asks only once where uploads go.
uploads = scratch.claim()

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


from blastlens.ui import LAUNCH, build, forget  # noqa: E402

try:
    demo = build()
except BlastlensError as error:  # what the operator asked for cannot be served
    sys.exit(str(error))
scratch.keep_clean(uploads, lambda: forget(demo, scratch.OLDEST_S))

if __name__ == "__main__":
    # A host stops the page by a signal; to end as by a plain exit lets what visitors uploaded be deleted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    demo.launch(**LAUNCH)
