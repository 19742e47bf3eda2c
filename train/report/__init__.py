"""Every document that is rendered from records: `python -m train.report` writes all of them again.

`published` holds what papers claim, `measured` turns recorded runs into scores with intervals, `systems` arranges both
by system, `pages` makes tables of them and `figures` figures, `templates` holds the prose. Model cards: `train.card`.
"""
