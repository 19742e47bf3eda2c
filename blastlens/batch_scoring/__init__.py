"""Score millions of images into one Parquet file: `python -m blastlens score SOURCE... --out results.parquet`.

    from blastlens.batch_scoring.score import Command, score

    report = score(Command(("archive/", "more.zip"), model="mobilenetv1-cnmc2019"), "results.parquet")
    report.images, report.failed, report.rate

`walk` finds the images, `listing` keeps what was found, `scoring` asks the model, `results` is the table that comes
out, `score` puts them together on one machine and `on_ray` on many. Only here are pyarrow, tqdm and Ray needed.
"""
