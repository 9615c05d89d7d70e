/* A file system that links and renames within one folder only, as AFS, project quotas, and folders mounted twice do. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int apart(const char *from, const char *to) {
    const char *from_end = strrchr(from, '/'), *to_end = strrchr(to, '/');
    long length = from_end ? from_end - from : 0;
    if (!from_end || !to_end || (length == to_end - to && !strncmp(from, to, length)))
        return 0;
    errno = EXDEV;
    return 1;
}
int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags) {
    return apart(from, to) ? -1 : syscall(SYS_linkat, from_folder, from, to_folder, to, flags);
}
int link(const char *from, const char *to) { return linkat(-100, from, -100, to, 0); }
int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
    return apart(from, to) ? -1 : syscall(SYS_renameat2, from_folder, from, to_folder, to, flags);
}
int rename(const char *from, const char *to) { return apart(from, to) ? -1 : syscall(SYS_renameat2, -100, from, -100, to, 0); }
