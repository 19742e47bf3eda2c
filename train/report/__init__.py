"""Pages and figures rendered from `results/`: what papers claim beside what was measured.

`published` holds the claims, `measured` turns recorded runs into figures with intervals, `figures` draws, `pages`
renders. Nothing here trains, or needs an image. `python -m train.report` writes everything again.
"""
