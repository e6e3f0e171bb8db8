"""An error at the n-th system call of a kind: a library to preload, armed from within the process.

It counts calls on files below one folder, in a process and all that it forks, whoever makes them: Python, SQLite's
C code, NumPy. With n = 0 nothing fails, and the count says how many there are.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["CALLS", "arm", "built"]

CALLS = ("write", "fsync", "rename", "unlink", "open", "read")

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>
enum {WRITE, FSYNC, RENAME, UNLINK, OPEN, READ};
static struct {long count;} *shared;
static int kind = -1, code;
static long nth;
static char folder[4096];
void shim_arm(int which, long number, int error, const char *where) {
    shared = mmap(0, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    snprintf(folder, sizeof folder, "%s/", where);
    nth = number; code = error; kind = which;
}
long shim_count(void) { return shared ? shared->count : 0; }
static int fails(const char *path) {
    if (strncmp(path, folder, strlen(folder))) return 0;
    const char *name = strrchr(path, '/') + 1;
    if (!strcmp(name, "books") || !strncmp(name, "std", 3) || strstr(path, ".py")) return 0;
    if (__sync_add_and_fetch(&shared->count, 1) != nth) return 0;
    errno = code;
    return 1;
}
static int at_path(int which, int base, const char *path) {
    char whole[8192], here[4096];
    if (kind != which) return 0;
    if (path[0] == '/') return fails(path);
    if (base != AT_FDCWD) {
        char link[64]; ssize_t size;
        snprintf(link, sizeof link, "/proc/self/fd/%d", base);
        if ((size = readlink(link, here, sizeof here - 1)) < 0) return 0;
        here[size] = 0;
    } else if (!getcwd(here, sizeof here)) return 0;
    snprintf(whole, sizeof whole, "%s/%s", here, path);
    return fails(whole);
}
static int at_file(int which, int file) {
    char link[64], path[4096]; ssize_t size;
    if (kind != which) return 0;
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    size = readlink(link, path, sizeof path - 1);
    errno = before;
    if (size < 0) return 0;
    path[size] = 0;
    return fails(path);
}
#define REAL(result, name, ...) \
    static result (*real)(__VA_ARGS__); \
    if (!real) real = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)
#define ON_FILE(which, result, name, params, args, ...) \
    result name params { REAL(result, #name, __VA_ARGS__); return at_file(which, file) ? -1 : real args; }
ON_FILE(WRITE, ssize_t, write, (int file, const void *data, size_t size), (file, data, size), int, const void *, size_t)
ON_FILE(WRITE, ssize_t, pwrite, (int file, const void *data, size_t size, off_t at), (file, data, size, at),
        int, const void *, size_t, off_t)
ON_FILE(WRITE, ssize_t, pwrite64, (int file, const void *data, size_t size, off64_t at), (file, data, size, at),
        int, const void *, size_t, off64_t)
ON_FILE(FSYNC, int, fsync, (int file), (file), int)
ON_FILE(FSYNC, int, fdatasync, (int file), (file), int)
ON_FILE(READ, ssize_t, read, (int file, void *data, size_t size), (file, data, size), int, void *, size_t)
ON_FILE(READ, ssize_t, pread, (int file, void *data, size_t size, off_t at), (file, data, size, at),
        int, void *, size_t, off_t)
ON_FILE(READ, ssize_t, pread64, (int file, void *data, size_t size, off64_t at), (file, data, size, at),
        int, void *, size_t, off64_t)
int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    return at_path(UNLINK, AT_FDCWD, path) ? -1 : real(path);
}
int unlinkat(int base, const char *path, int flags) {
    REAL(int, "unlinkat", int, const char *, int);
    return at_path(UNLINK, base, path) ? -1 : real(base, path, flags);
}
int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    return at_path(RENAME, AT_FDCWD, from) ? -1 : real(from, to);
}
int renameat(int base, const char *from, int other, const char *to) {
    REAL(int, "renameat", int, const char *, int, const char *);
    return at_path(RENAME, base, from) ? -1 : real(base, from, other, to);
}
#define MODE do { va_list more; va_start(more, flags); mode = va_arg(more, int); va_end(more); } while (0)
#define OPENS(name) \
    int name(const char *path, int flags, ...) { \
        mode_t mode = 0; \
        REAL(int, #name, const char *, int, ...); \
        if (flags & (O_CREAT | O_TMPFILE)) MODE; \
        return at_path(OPEN, AT_FDCWD, path) ? -1 : real(path, flags, mode); \
    }
OPENS(open)
OPENS(open64)
#define OPENS_AT(name) \
    int name(int base, const char *path, int flags, ...) { \
        mode_t mode = 0; \
        REAL(int, #name, int, const char *, int, ...); \
        if (flags & (O_CREAT | O_TMPFILE)) MODE; \
        return at_path(OPEN, base, path) ? -1 : real(base, path, flags, mode); \
    }
OPENS_AT(openat)
OPENS_AT(openat64)
"""


def built(folder: Path) -> Path:
    """The library, compiled into the folder; skips the test where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler here")
    source, made = folder / "breaking.c", folder / "breaking.so"
    source.write_text(SHIM, encoding="utf-8")
    subprocess.run([compiler, "-shared", "-fPIC", "-w", "-o", made, source, "-ldl"], check=True)
    return made


def arm(call: str, nth: int, code: int, folder: str) -> None:
    """Let the n-th call of a kind fail from now on, in this process and all that it forks."""
    ctypes.CDLL(None).shim_arm(CALLS.index(call), ctypes.c_long(nth), code, folder.encode())


def count() -> int:
    """How many calls of that kind there were."""
    counted = ctypes.CDLL(None).shim_count
    counted.restype = ctypes.c_long
    return int(counted())
