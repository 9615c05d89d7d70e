/* A file system whose locks exclude nobody, although they seem to be given. */
int flock(int file, int operation) { return 0; }
