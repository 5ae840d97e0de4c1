/* See registration.h. */
#define _GNU_SOURCE
#include "registration.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#ifndef GANTRY_RUN
#define GANTRY_RUN "/run/gantry"
#endif

enum { MAX_REGISTRATION = 4096 };

const char *die_log;

_Noreturn void die(const char *format, ...)
{
    char message[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    for (char *c = message; *c != '\0'; c++)
        if ((unsigned char)*c < 0x20 || (unsigned char)*c >= 0x7f || *c == '"' || *c == '\\')
            *c = '?';
    fprintf(stderr, "gantry-runc: %s\n", message);
    int fd = die_log ? open(die_log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;
    if (fd >= 0) {
        char now[32];
        time_t seconds = time(NULL);
        strftime(now, sizeof now, "%Y-%m-%dT%H:%M:%SZ", gmtime(&seconds));
        dprintf(fd, "{\"level\":\"error\",\"msg\":\"gantry-runc: %s\",\"time\":\"%s\"}\n", message, now);
    }
    exit(1);
}

static int is_name(const char *text, size_t most)
{
    size_t size = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-");
    return size > 0 && size <= most && text[size] == '\0' && text[0] != '-';
}

static int is_plain_path(const char *text)
{
    return text[0] == '/' && text[strcspn(text, "\"\\")] == '\0';
}

/* Reads a small root-only file of the registry into `text`, NUL-terminated; its size, or -1 when there is none. */
static ssize_t read_private(int directory, const char *name, char *text, size_t room)
{
    struct stat status;
    int fd = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT)
        return -1;
    if (fd < 0 || fstat(fd, &status) != 0)
        die("cannot read %s of the registry: %s", name, strerror(errno));
    if (!S_ISREG(status.st_mode) || status.st_uid != 0 || (status.st_mode & 0077) != 0 || status.st_nlink != 1)
        die("%s of the registry is not a file of root's alone", name);
    ssize_t size = read(fd, text, room);
    close(fd);
    if (size < 0 || (size_t)size >= room || memchr(text, '\0', (size_t)size) != NULL)
        die("%s of the registry cannot be read as text", name);
    text[size] = '\0';
    return size;
}

/* Opens a registry that is root's alone; -1 when there is none at `path`. */
static int open_registry(const char *path)
{
    struct stat status;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -1;
    if (fstat(fd, &status) != 0 || status.st_uid != 0 || (status.st_mode & 0077) != 0)
        die("the registry %.300s is not root's alone", path);
    return fd;
}

/* The one cluster's registry that knows the container: many clusters may share an engine. */
static int search_registry(const char *container)
{
    DIR *clusters = opendir(GANTRY_RUN);
    int found = -1;
    for (struct dirent *entry; clusters != NULL && (entry = readdir(clusters)) != NULL;) {
        char path[PATH_MAX];
        if (!is_name(entry->d_name, MAX_NAME))
            continue;
        snprintf(path, sizeof path, GANTRY_RUN "/%s/netns-reg", entry->d_name);
        int fd = open_registry(path);
        if (fd < 0)
            continue;
        if (faccessat(fd, container, F_OK, AT_SYMLINK_NOFOLLOW) != 0)
            close(fd);
        else if (found >= 0)
            die("two clusters have registered container %.12s", container);
        else
            found = fd;
    }
    if (clusters != NULL)
        closedir(clusters);
    return found;
}

static unsigned long long number(const char *text, const char *what)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0)
        die("the registration's %s is no number", what);
    return value;
}

/* Copies the value of the line `key=…` to `out`, cuts the line off *text. The order of the lines is fixed. */
static void take_line(char **text, const char *key, char *out, size_t room)
{
    size_t size = strlen(key);
    char *end = strchr(*text, '\n');
    if (end == NULL || strncmp(*text, key, size) != 0 || (*text)[size] != '=')
        die("the registration has no %s where it belongs", key);
    *end = '\0';
    if (strlen(*text + size + 1) >= room)
        die("the registration's %s is too long", key);
    strcpy(out, *text + size + 1);
    *text = end + 1;
}

static void read_registration(int registry, const char *container, struct registration *out)
{
    static const char header[] = "gantry-registration 1\n";
    char text[MAX_REGISTRATION], digits[24], *rest = text;
    if (registry < 0 || read_private(registry, container, text, sizeof text) < 0)
        die("no network namespace is registered for container %.12s: Gantry alone may start it", container);
    if (strncmp(text, header, strlen(header)) != 0)
        die("the registration is of an unknown version");
    rest += strlen(header);
    take_line(&rest, "boot_id", out->boot_id, sizeof out->boot_id);
    take_line(&rest, "container", out->container, sizeof out->container);
    take_line(&rest, "generation", digits, sizeof digits);
    out->generation = number(digits, "generation");
    take_line(&rest, "inode", digits, sizeof digits);
    out->inode = number(digits, "inode");
    take_line(&rest, "namespace", out->namespace, sizeof out->namespace);
    take_line(&rest, "path", out->path, sizeof out->path);
    if (*rest != '\0')
        die("the registration has more lines than it should");
    if (!is_name(out->namespace, MAX_NAME) || !is_plain_path(out->path))
        die("the registration's namespace has an impossible name or path");
}

/* The registration must be of this boot, this container and its namespace's present generation. */
static void check_registration(int registry, const char *container, const struct registration *registered)
{
    char boot_id[64], name[MAX_NAME + 16], text[32];
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? -1 : read(fd, boot_id, sizeof boot_id - 1);
    if (size <= 0)
        die("cannot read the boot id: %s", strerror(errno));
    close(fd);
    boot_id[size] = '\0';
    boot_id[strcspn(boot_id, "\n")] = '\0';
    if (strcmp(boot_id, registered->boot_id) != 0)
        die("the registration is of another boot");
    if (strcmp(container, registered->container) != 0)
        die("the registration is of another container");
    snprintf(name, sizeof name, "%s.generation", registered->namespace);
    if (read_private(registry, name, text, sizeof text) < 0)
        die("namespace %s has no generation: it is not in use", registered->namespace);
    text[strcspn(text, "\n")] = '\0';
    if (number(text, "namespace's generation") != registered->generation)
        die("the registration is of generation %llu, the namespace of %s", registered->generation, text);
}

static int same_namespace(const char *path, const struct stat *status)
{
    struct stat other;
    return stat(path, &other) == 0 && other.st_dev == status->st_dev && other.st_ino == status->st_ino;
}

int is_host_namespace(const struct stat *status)
{
    return same_namespace("/proc/self/ns/net", status) || same_namespace("/proc/1/ns/net", status);
}

static void check_namespace(const struct registration *registered)
{
    struct statfs filesystem;
    struct stat status;
    int fd = open(registered->path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        die("the registered namespace %s cannot be opened: %s", registered->path, strerror(errno));
    if (fstatfs(fd, &filesystem) != 0 || fstat(fd, &status) != 0 || filesystem.f_type != NSFS_MAGIC ||
        ioctl(fd, NS_GET_NSTYPE) != CLONE_NEWNET)
        die("%s is not a network namespace", registered->path);
    if (is_host_namespace(&status))
        die("%s is the host's own network namespace", registered->path);
    if (status.st_ino != registered->inode)
        die("%s is another namespace than the one registered", registered->path);
    close(fd);
}

int registration_find(const char *directory, const char *container, struct registration *out)
{
    if (!is_name(container, MAX_ID))
        die("an impossible container id");
    int registry = directory ? open_registry(directory) : search_registry(container);
    read_registration(registry, container, out);
    check_registration(registry, container, out);
    check_namespace(out);
    return registry;
}

void registration_claim(int registry, const char *container)
{
    if (unlinkat(registry, container, 0) != 0)
        die("the registration was revoked: %s", strerror(errno));
}
