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
#include "registration.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef GANTRY_RUNC
#define GANTRY_RUNC "/usr/bin/runc"
#endif

enum { MAX_SPEC = 16 * 1024 * 1024 };

struct command {
    const char *registry, *runc, *bundle, *id;
};

static struct command command = {.runc = GANTRY_RUNC, .bundle = "."};

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
            die_log = value; /* where Docker looks for the reason of a failure */
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
    int registry = registration_find(command.registry, command.id, &registered);
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
    registration_claim(registry, command.id);
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
    int at = read_globals(argc, argv, first);
    const char *verb = at ? argv[at] : "";
    if (strcmp(verb, "create") == 0) {
        read_create(argc, argv, at + 1);
        enter_registered_namespace();
    } else if (strcmp(verb, "run") == 0 || strcmp(verb, "restore") == 0) {
        die("%s is not allowed: containers start by create and start only", verb);
    }
    if (strchr(command.runc, '/') == NULL)
        die("--gantry-runc must be a path");
    argv[first - 1] = (char *)command.runc;
    execv(command.runc, argv + first - 1);
    die("cannot execute %s: %s", command.runc, strerror(errno));
}
