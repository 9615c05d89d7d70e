/* A file system whose rename knows no flags, as most FUSE and network mounts. */
#include <errno.h>

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
    errno = EINVAL;
    return -1;
}
