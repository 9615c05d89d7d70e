/* A file system whose rename knows no flags, as most FUSE and network mounts: NO_RENAME, an errno; EINVAL without it. */
#include <errno.h>
#include <stdlib.h>

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
    const char *code = getenv("NO_RENAME");
    errno = code ? atoi(code) : EINVAL;
    return -1;
}
