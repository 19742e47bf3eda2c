"""Score any number of images into one Parquet file: `python -m blastlens score SOURCE... --out results.parquet`.

    from blastlens.batch_scoring.score import Command, score

    report = score(Command(("archive/", "more.zip"), model="mobilenetv1-cnmc2019"), "results.parquet")
    report.images, report.failed, report.rate

`scorer` turns images into rows, `score` does so on one machine and resumes after an interruption, `on_ray` on several
machines. Only this package imports pyarrow, tqdm and Ray.
"""
