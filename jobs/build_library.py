"""Extract images into a library and index it, as one job.

`ray job submit -- python jobs/build_library.py IMAGES... --library LIB`
"""

from kt_batch.process import tune_process

tune_process()  # before torch is imported

from kt_batch.cli.exit_codes import leave, run_app
from kt_batch.cli.jobs import build_library_app

app = build_library_app()

if __name__ == "__main__":
    leave(run_app(app))
