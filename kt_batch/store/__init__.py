"""Read and write libraries and runs: places, files, commits."""
