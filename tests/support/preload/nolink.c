/* A file system without hard links: link fails with NO_LINK, an errno; EPERM without it. */
#include <errno.h>
#include <stdlib.h>

static int refuse(void) {
    const char *code = getenv("NO_LINK");
    errno = code ? atoi(code) : EPERM;
    return -1;
}
int link(const char *from, const char *to) { return refuse(); }
int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags) { return refuse(); }
