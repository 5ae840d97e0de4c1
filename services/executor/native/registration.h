/* Leave to start, as hostd registers it (`services/hostd/registry.py` writes it), and how the shim gives up. */
#ifndef GANTRY_REGISTRATION_H
#define GANTRY_REGISTRATION_H

#include <limits.h>
#include <sys/stat.h>

enum { MAX_ID = 128, MAX_NAME = 64 };

struct registration {
    char boot_id[64], container[MAX_ID + 1], namespace[MAX_NAME + 1], path[PATH_MAX];
    unsigned long long generation, inode;
};

/*
 * Finds and checks the registration of a container: root's alone, of this boot, this container and its namespace's
 * present generation, and the namespace a network namespace that is not the host's. Dies when any of it is not so.
 * `directory` is the registry, or NULL to look through all clusters'. Returns the open registry.
 */
int registration_find(const char *directory, const char *container, struct registration *out);

/* Uses the registration up; dies when it was revoked meanwhile. */
void registration_claim(int registry, const char *container);

/* Is this the host's own network namespace? */
int is_host_namespace(const struct stat *status);

/* Says why on stderr and, as runc does, as a JSON line in the file at die_log (if any); then exits with status 1. */
_Noreturn void __attribute__((format(printf, 1, 2))) die(const char *format, ...);
extern const char *die_log;

#endif
