/* Faults of the disk, for tests: cc -shared -fPIC -o faults.so faults.c; LD_PRELOAD=faults.so; and in GRIDNN_FAULT

       CALL PATTERN FIRST COUNT ACTION [RANK]

   CALL is open, read, write, sync, rename or allocate, each with its relatives (pwritev, fdatasync, ftruncate, ...). Of
   the calls on files whose path has PATTERN in it, the FIRST-th and the COUNT - 1 next ones (0: all) are struck: ACTION is
   an errno, "short" (half of the bytes), "flip" (a bit is wrong) or "delay" (a second). RANK: on this rank of Open MPI
   alone. A rule that is changed while a process runs counts from 1 again. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NOTHING, FAIL, SHORT, FLIP };

static struct { char text[1024], call[16], pattern[512], action[16]; int first, count, rank, seen; } rule;

static int own_rank(void)
{
    const char *rank = getenv("OMPI_COMM_WORLD_RANK");
    return rank ? atoi(rank) : 0;
}

/* What is to be done to a call; with FAIL, errno is set. */
static int strike(const char *call, const char *path)
{
    const char *text = getenv("GRIDNN_FAULT");
    if (!text || !*text)
        return NOTHING;
    if (strcmp(text, rule.text)) {
        memset(&rule, 0, sizeof rule);
        rule.rank = -1;
        strncpy(rule.text, text, sizeof rule.text - 1);
        sscanf(text, "%15s %511s %d %d %15s %d", rule.call, rule.pattern, &rule.first, &rule.count, rule.action,
               &rule.rank);
    }
    if (strcmp(call, rule.call) || !path || !strstr(path, rule.pattern) || (rule.rank >= 0 && rule.rank != own_rank()))
        return NOTHING;
    int number = __sync_add_and_fetch(&rule.seen, 1);
    if (number < rule.first || (rule.count && number >= rule.first + rule.count))
        return NOTHING;
    if (!strcmp(rule.action, "short"))
        return SHORT;
    if (!strcmp(rule.action, "flip"))
        return FLIP;
    if (!strcmp(rule.action, "delay")) {
        usleep(1000000);
        return NOTHING;
    }
    errno = atoi(rule.action);
    return FAIL;
}

static int strike_file(const char *call, int file)
{
    char name[64], path[4096];
    const char *text = getenv("GRIDNN_FAULT");
    if (!text || strncmp(text, call, strlen(call)))
        return NOTHING;
    snprintf(name, sizeof name, "/proc/self/fd/%d", file);
    ssize_t length = readlink(name, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    return strike(call, path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static size_t size_of(const struct iovec *parts, int count)
{
    size_t size = 0;
    for (int i = 0; i < count; i++)
        size += parts[i].iov_len;
    return size;
}

/* Write what a short or wrong write leaves; offset < 0: where the file stands. */
static ssize_t write_badly(int how, int file, const struct iovec *parts, int count, off_t offset)
{
    size_t size = size_of(parts, count), at = 0;
    char *all = malloc(size + 1);
    for (int i = 0; i < count; at += parts[i++].iov_len)
        memcpy(all + at, parts[i].iov_base, parts[i].iov_len);
    if (how == FLIP && size)
        all[size / 2] ^= 16;
    if (how == SHORT)
        size /= 2;
    ssize_t done = offset < 0 ? REAL(write)(file, all, size) : REAL(pwrite)(file, all, size, offset);
    free(all);
    return done;
}

static void flip_read(const struct iovec *parts, ssize_t done)
{
    if (done > 0)
        ((char *)parts[0].iov_base)[(done - 1 < (ssize_t)parts[0].iov_len ? done - 1 : (ssize_t)parts[0].iov_len - 1) / 2] ^= 16;
}

#define WRITE(name, parameters, arguments, parts, count, offset)        \
    ssize_t name parameters                                             \
    {                                                                   \
        int how = strike_file("write", file);                           \
        if (how == FAIL)                                                \
            return -1;                                                  \
        return how ? write_badly(how, file, parts, count, offset) : REAL(name) arguments; \
    }

#define READ(name, parameters, arguments, parts)                        \
    ssize_t name parameters                                             \
    {                                                                   \
        int how = strike_file("read", file);                            \
        if (how == FAIL)                                                \
            return -1;                                                  \
        ssize_t done = REAL(name) arguments;                            \
        if (how == FLIP)                                                \
            flip_read(parts, done);                                     \
        return how == SHORT && done > 1 ? done / 2 : done;              \
    }

#define ONE (&(struct iovec){(void *)data, size})

WRITE(write, (int file, const void *data, size_t size), (file, data, size), ONE, 1, -1)
WRITE(pwrite, (int file, const void *data, size_t size, off_t at), (file, data, size, at), ONE, 1, at)
WRITE(pwrite64, (int file, const void *data, size_t size, off64_t at), (file, data, size, at), ONE, 1, at)
WRITE(writev, (int file, const struct iovec *all, int n), (file, all, n), all, n, -1)
WRITE(pwritev, (int file, const struct iovec *all, int n, off_t at), (file, all, n, at), all, n, at)
WRITE(pwritev64, (int file, const struct iovec *all, int n, off64_t at), (file, all, n, at), all, n, at)
READ(read, (int file, void *data, size_t size), (file, data, size), ONE)
READ(pread, (int file, void *data, size_t size, off_t at), (file, data, size, at), ONE)
READ(pread64, (int file, void *data, size_t size, off64_t at), (file, data, size, at), ONE)
READ(readv, (int file, const struct iovec *all, int n), (file, all, n), all)
READ(preadv, (int file, const struct iovec *all, int n, off_t at), (file, all, n, at), all)
READ(preadv64, (int file, const struct iovec *all, int n, off64_t at), (file, all, n, at), all)

int fsync(int file) { return strike_file("sync", file) == FAIL ? -1 : REAL(fsync)(file); }
int fdatasync(int file) { return strike_file("sync", file) == FAIL ? -1 : REAL(fdatasync)(file); }
int ftruncate(int file, off_t size) { return strike_file("allocate", file) == FAIL ? -1 : REAL(ftruncate)(file, size); }
int ftruncate64(int file, off64_t size) { return strike_file("allocate", file) == FAIL ? -1 : REAL(ftruncate64)(file, size); }
int posix_fallocate(int file, off_t at, off_t size)
{
    return strike_file("allocate", file) == FAIL ? errno : REAL(posix_fallocate)(file, at, size);
}
int posix_fallocate64(int file, off64_t at, off64_t size)
{
    return strike_file("allocate", file) == FAIL ? errno : REAL(posix_fallocate64)(file, at, size);
}
int rename(const char *from, const char *to) { return strike("rename", from) == FAIL ? -1 : REAL(rename)(from, to); }

#define OPEN(name)                                                      \
    int name(const char *path, int flags, ...)                          \
    {                                                                   \
        va_list rest;                                                   \
        va_start(rest, flags);                                          \
        int mode = va_arg(rest, int);                                   \
        va_end(rest);                                                   \
        return strike("open", path) == FAIL ? -1 : REAL(name)(path, flags, mode); \
    }

OPEN(open)
OPEN(open64)
