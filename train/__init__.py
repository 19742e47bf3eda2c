"""Makes models: everything that runs before publication. Imports blastlens, which never imports this."""

import blastlens  # noqa: F401  # before ONNX Runtime, which reports to its maker unless blastlens has told it not to
