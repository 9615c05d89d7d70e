"""Train kt-vgg with its decoders, or decoders for another encoder.

`python jobs/train_autoencoder.py IMAGES... --out DIR`
"""

from kt_batch.process import tune_process

tune_process()  # before torch is imported

from kt_batch.cli.exit_codes import leave, run_app
from kt_batch.cli.training import train_app

app = train_app()

if __name__ == "__main__":
    leave(run_app(app))
