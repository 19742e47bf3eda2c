"""The demo's entry point, on a desk and on a Space.

It listens on 127.0.0.1:7860 unless GRADIO_SERVER_NAME and GRADIO_SERVER_PORT say otherwise.
"""

from blastlens import scratch

# Before Gradio is imported, which asks only once where uploads go.
scratch.claim()

from blastlens.ui import LAUNCH, build  # noqa: E402

demo = build()

if __name__ == "__main__":
    demo.launch(**LAUNCH)
