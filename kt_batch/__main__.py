"""`python -m kt_batch` is `kt-batch`."""

from kt_batch.cli import main

if __name__ == "__main__":
    main()
