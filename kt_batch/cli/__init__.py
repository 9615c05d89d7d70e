"""The command line."""


def main() -> None:
    """Run `kt-batch`."""
    from kt_batch.cli.app import main as run

    run()
