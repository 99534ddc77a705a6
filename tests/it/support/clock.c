/* A clock that tests can set, for a program that is started with it in LD_PRELOAD: to its wall clock
 * the number of seconds is added that the file $TEST_CLOCK holds. Two words there concern the thread
 * called "reactor" alone: while it says "broken" that has no wall clock, and while it says "hung" it
 * waits at each look at any clock. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int is_reactor(void) {
    char name[16] = {0};
    pthread_getname_np(pthread_self(), name, sizeof name);
    return strcmp(name, "reactor") == 0;
}

/* What the file holds; nothing if there is none. */
static void read_file(char *text, size_t size) {
    memset(text, 0, size);
    const char *path = getenv("TEST_CLOCK");
    int file = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return;
    if (read(file, text, size - 1) < 0) memset(text, 0, size);
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    char text[32];
    int reactor = is_reactor();
    if (reactor) {
        for (;;) {
            read_file(text, sizeof text);
            if (strncmp(text, "hung", 4) != 0) break;
            usleep(1000);
        }
    }
    int result = (int)syscall(SYS_clock_gettime, clock, time);
    if (result != 0 || clock != CLOCK_REALTIME) return result;
    if (!reactor) read_file(text, sizeof text);
    if (reactor && strncmp(text, "broken", 6) == 0) {
        errno = EINVAL;
        return -1;
    }
    time->tv_sec += atol(text);
    return 0;
}
