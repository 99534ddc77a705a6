/* A clock that tests can set, for a program that is started with it in LD_PRELOAD: to its wall clock
 * the number of seconds is added that the file $TEST_CLOCK holds. While that says "broken", the
 * thread called "reactor" has no wall clock at all, which Rust's standard library takes for a reason
 * to panic. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *time) {
    long result = syscall(SYS_clock_gettime, clock, time);
    const char *path = getenv("TEST_CLOCK");
    if (result != 0 || clock != CLOCK_REALTIME || path == NULL) return (int)result;
    char text[32] = {0}, name[16] = {0};
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return 0;
    ssize_t n = read(file, text, sizeof text - 1);
    close(file);
    if (n <= 0) return 0;
    if (strncmp(text, "broken", 6) != 0) {
        time->tv_sec += atol(text);
        return 0;
    }
    pthread_getname_np(pthread_self(), name, sizeof name);
    if (strcmp(name, "reactor") != 0) return 0;
    errno = EINVAL;
    return -1;
}
