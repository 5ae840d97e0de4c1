/*
 * gantry-runc: an OCI runtime that starts containers only inside a network namespace hostd registered.
 *
 *   gantry-runc [--gantry-registry=DIR] [--gantry-runc=PATH] <runc's own arguments>
 *
 * Docker knows it as a runtime; the two options may be its runtimeArgs. On `create` it claims the registration
 * DIR/<container id> (without DIR: the one /run/gantry/<cluster>/netns-reg/<container id> there is), checks it, puts
 * the namespace's path into the bundle's config.json and becomes runc. Every other verb goes to runc untouched.
 * Whatever is not as it must be ends the start: it fails closed.
 *
 * A registration is good for one start: it is removed here, before runc runs. So a `docker start` by hand finds
 * nothing, and of a start and a revocation that race, exactly one wins.
 */
#define _GNU_SOURCE
#include "oci_spec.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#ifndef GANTRY_RUNC
#define GANTRY_RUNC "/usr/bin/runc"
#endif
#ifndef GANTRY_RUN
#define GANTRY_RUN "/run/gantry"
#endif

enum { MAX_REGISTRATION = 4096, MAX_SPEC = 16 * 1024 * 1024, MAX_ID = 128, MAX_NAME = 64 };

struct command {
    const char *registry, *runc, *log; /* log: where Docker looks for the reason of a failure */
    const char *verb, *bundle, *id;
};

struct registration {
    char boot_id[64], container[MAX_ID + 1], namespace[MAX_NAME + 1], path[PATH_MAX];
    unsigned long long generation, inode;
};

static struct command command = {.runc = GANTRY_RUNC, .bundle = "."};

/* Says why on stderr and, as runc does, as a JSON line in the --log file; then ends with status 1. */
static _Noreturn void __attribute__((format(printf, 1, 2))) die(const char *format, ...)
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
    int fd = command.log ? open(command.log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;
    if (fd >= 0) {
        char now[32];
        time_t seconds = time(NULL);
        strftime(now, sizeof now, "%Y-%m-%dT%H:%M:%SZ", gmtime(&seconds));
        dprintf(fd, "{\"level\":\"error\",\"msg\":\"gantry-runc: %s\",\"time\":\"%s\"}\n", message, now);
    }
    exit(1);
}

/* The value of option `name` at argv[*i], as `--name value` or `--name=value`; NULL when it is another one. */
static const char *option(char **argv, int *i, const char *name)
{
    const char *word = argv[*i] + 1 + (argv[*i][1] == '-');
    size_t size = strlen(name);
    if (strncmp(word, name, size) != 0)
        return NULL;
    if (word[size] == '=')
        return word + size + 1;
    if (word[size] != '\0')
        return NULL;
    if (argv[*i + 1] == NULL)
        die("%s needs a value", argv[*i]);
    return argv[++*i];
}

static int is_flag(const char *argument, const char *const *names)
{
    const char *word = argument + 1 + (argument[1] == '-');
    for (; *names != NULL; names++) {
        size_t size = strlen(*names);
        if (strncmp(word, *names, size) == 0 && (word[size] == '\0' || word[size] == '='))
            return 1;
    }
    return 0;
}

/* Is argv[*i] one of the options in `names`, which take a value? Steps over the value. */
static int skip_option(char **argv, int *i, const char *const *names)
{
    for (; *names != NULL; names++)
        if (option(argv, i, *names) != NULL)
            return 1;
    return 0;
}

/* Reads runc's global options up to the verb; returns its index, or 0 when there is none (`--version`). */
static int read_globals(int argc, char **argv, int first)
{
    static const char *const valued[] = {"root", "log-format", "criu", "rootless", NULL};
    static const char *const flags[] = {"debug", "systemd-cgroup", "help", "h", "version", "v", NULL};
    for (int i = first; i < argc; i++) {
        const char *value;
        if (argv[i][0] != '-')
            return i;
        if ((value = option(argv, &i, "log")) != NULL)
            command.log = value;
        else if (!is_flag(argv[i], flags) && !skip_option(argv, &i, valued))
            die("unknown option %s before the verb", argv[i]);
    }
    return 0;
}

static void read_create(int argc, char **argv, int first)
{
    static const char *const valued[] = {"console-socket", "pidfd-socket", "pid-file", "preserve-fds", NULL};
    static const char *const flags[] = {"no-pivot", "no-new-keyring", NULL};
    int i = first;
    for (; i < argc && argv[i][0] == '-'; i++) {
        const char *value;
        if ((value = option(argv, &i, "bundle")) != NULL || (value = option(argv, &i, "b")) != NULL)
            command.bundle = value;
        else if (!is_flag(argv[i], flags) && !skip_option(argv, &i, valued))
            die("unknown option %s of create", argv[i]);
    }
    if (i != argc - 1)
        die("create needs exactly one container id");
    command.id = argv[i];
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
static int search_registry(void)
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
        if (faccessat(fd, command.id, F_OK, AT_SYMLINK_NOFOLLOW) != 0)
            close(fd);
        else if (found >= 0)
            die("two clusters have registered container %.12s", command.id);
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

static void read_registration(int registry, struct registration *out)
{
    static const char header[] = "gantry-registration 1\n";
    char text[MAX_REGISTRATION], digits[24], *rest = text;
    if (registry < 0 || read_private(registry, command.id, text, sizeof text) < 0)
        die("no network namespace is registered for container %.12s: Gantry alone may start it", command.id);
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
static void check_registration(int registry, const struct registration *registered)
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
    if (strcmp(command.id, registered->container) != 0)
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

static int is_host_namespace(const struct stat *status)
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

/* Docker must have asked for the host's network: the only thing that may be replaced. */
static void check_spec(const char *text, const struct oci_network *network)
{
    static const char suffix[] = "/netns/default";
    char path[PATH_MAX];
    struct stat status;
    if (network->network_count == 0)
        return;
    size_t size = network->path.to - network->path.from;
    if (!network->has_path || size == 0 || size >= sizeof path)
        die("the container was not created with network mode host");
    memcpy(path, text + network->path.from, size);
    path[size] = '\0';
    if (size < strlen(suffix) || strcmp(path + size - strlen(suffix), suffix) != 0)
        die("the container was created for another network namespace, %.200s", path);
    if (stat(path, &status) != 0 || !is_host_namespace(&status))
        die("%.200s is not the host's network namespace as Docker names it", path);
}

static char *read_spec(const char *name, size_t *size, mode_t *mode)
{
    struct stat status;
    int fd = open(name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status) != 0 || !S_ISREG(status.st_mode))
        die("cannot read %.300s: %s", name, strerror(errno));
    if (status.st_size > MAX_SPEC)
        die("%.300s is larger than %d bytes", name, MAX_SPEC);
    *size = (size_t)status.st_size;
    *mode = status.st_mode & 0777;
    char *text = malloc(*size + 1);
    size_t done = 0;
    ssize_t got = 1;
    while (text != NULL && done < *size && (got = read(fd, text + done, *size - done)) > 0)
        done += (size_t)got;
    if (text == NULL || done != *size)
        die("cannot read all of %.300s", name);
    close(fd);
    return text;
}

static void write_spec(const char *name, const char *text, size_t size, mode_t mode)
{
    char temporary[PATH_MAX];
    if (snprintf(temporary, sizeof temporary, "%s.gantry", name) >= (int)sizeof temporary)
        die("the bundle's path is too long");
    unlink(temporary);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
    size_t done = 0;
    ssize_t put = 0;
    while (fd >= 0 && done < size && (put = write(fd, text + done, size - done)) > 0)
        done += (size_t)put;
    if (fd < 0 || done != size || close(fd) != 0 || rename(temporary, name) != 0)
        die("cannot write %.300s: %s", name, strerror(errno));
}

static void enter_registered_namespace(void)
{
    struct registration registered;
    struct oci_network network;
    char name[PATH_MAX];
    size_t size, new_size;
    mode_t mode;
    if (!is_name(command.id, MAX_ID))
        die("an impossible container id");
    int registry = command.registry ? open_registry(command.registry) : search_registry();
    read_registration(registry, &registered);
    check_registration(registry, &registered);
    check_namespace(&registered);
    if (snprintf(name, sizeof name, "%s/config.json", command.bundle) >= (int)sizeof name)
        die("the bundle's path is too long");
    char *text = read_spec(name, &size, &mode);
    const char *why = oci_scan(text, size, &network);
    if (why != NULL)
        die("config.json is refused: %s", why);
    check_spec(text, &network);
    char *changed = oci_with_network(text, size, &network, registered.path, &new_size);
    if (changed == NULL)
        die("out of memory");
    if (unlinkat(registry, command.id, 0) != 0)
        die("the registration was revoked: %s", strerror(errno));
    write_spec(name, changed, new_size, mode);
    free(changed);
    free(text);
    close(registry);
}

int main(int argc, char **argv)
{
    int first = 1;
    for (const char *value; first < argc && strncmp(argv[first], "--gantry-", 9) == 0; first++) {
        if ((value = option(argv, &first, "gantry-registry")) != NULL)
            command.registry = value;
        else if ((value = option(argv, &first, "gantry-runc")) != NULL)
            command.runc = value;
        else
            die("unknown option %s", argv[first]);
    }
    int verb = read_globals(argc, argv, first);
    command.verb = verb ? argv[verb] : "";
    if (strcmp(command.verb, "create") == 0) {
        read_create(argc, argv, verb + 1);
        enter_registered_namespace();
    } else if (strcmp(command.verb, "run") == 0 || strcmp(command.verb, "restore") == 0) {
        die("%s is not allowed: containers start by create and start only", command.verb);
    }
    if (strchr(command.runc, '/') == NULL)
        die("--gantry-runc must be a path");
    argv[first - 1] = (char *)command.runc;
    execv(command.runc, argv + first - 1);
    die("cannot execute %s: %s", command.runc, strerror(errno));
}
