"""Places, files and commits: the only part of kt_batch that reads and writes libraries and runs."""
