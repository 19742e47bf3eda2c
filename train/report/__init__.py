"""Every document that is rendered from records: `python -m train.report` writes all of them again.

`published` holds what papers claim, `measured` turns recorded runs into scores with intervals, `systems` arranges both
by system, and `models` is about the bundled models; `pages` and `figures` show them, with prose and tables in
`templates/`. Model cards: `train.card`.
"""
