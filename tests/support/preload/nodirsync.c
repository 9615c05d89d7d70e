/* A file system that refuses to sync directories with NO_SYNC, an errno; EINVAL without it. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

int fsync(int file) {
    struct stat status;
    if (!fstat(file, &status) && S_ISDIR(status.st_mode)) {
        const char *code = getenv("NO_SYNC");
        errno = code ? atoi(code) : EINVAL;
        return -1;
    }
    return syscall(SYS_fsync, file);
}
