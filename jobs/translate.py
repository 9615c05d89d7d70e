"""Translate images, as a job.

`ray job submit -- python jobs/translate.py IMAGES... --library LIB --out RUN`
"""

from kt_batch.process import tune_process

tune_process()  # before torch is imported

from kt_batch.cli.exit_codes import leave, run_app
from kt_batch.cli.jobs import translate_app

app = translate_app()

if __name__ == "__main__":
    leave(run_app(app))
