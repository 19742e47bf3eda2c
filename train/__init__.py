"""Makes models: everything that runs before publication. Imports blastlens, which never imports this."""
