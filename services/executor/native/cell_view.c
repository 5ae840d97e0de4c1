/*
 * What a task sees of the file system: the image's files under an overlay of its own, /proc of its pid namespace, fresh
 * /dev/shm, /dev/pts and /dev/mqueue, and what the engine keeps from containers kept from it too. All of it ends with
 * the cell's mount namespace; the overlay's upper directory is removed by the init.
 */
#define _GNU_SOURCE
#include "cell.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static const unsigned long PLAIN = MS_NOSUID | MS_NODEV | MS_NOEXEC;

/* As Docker has them: files that show as empty, and places that nobody writes to. */
static const char *const masked[] = {
    "/proc/acpi",       "/proc/asound",      "/proc/kcore",     "/proc/keys",       "/proc/latency_stats",
    "/proc/sched_debug", "/proc/scsi",       "/proc/timer_list", "/proc/timer_stats", "/sys/firmware",
    "/sys/devices/virtual/powercap", NULL,
};
static const char *const read_only[] = {
    "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", NULL,
};

static char root[PATH_MAX];

static int failed(char *why, const char *what, const char *path)
{
    snprintf(why, MAX_WHY, "%s %.150s: %s", what, path, strerror(errno));
    return -1;
}

static int join(char *out, const char *first, const char *second)
{
    int size = snprintf(out, PATH_MAX, "%s%s", first, second);
    return size > 0 && size < PATH_MAX ? 0 : -1;
}

/* Shows `path` of the container at the same place of the new root; -1 when that fails, or it is not there. */
static int show(const char *path)
{
    char target[PATH_MAX];
    return join(target, root, path) == 0 ? mount(path, target, NULL, MS_BIND, NULL) : -1;
}

static int fresh(const char *type, const char *path, unsigned long flags, const char *options)
{
    char target[PATH_MAX];
    return join(target, root, path) == 0 ? mount(type, target, type, flags, options) : -1;
}

static int lock(const char *path, unsigned long flags)
{
    char target[PATH_MAX];
    if (join(target, root, path) != 0)
        return -1;
    return mount(NULL, target, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | flags, NULL);
}

static int make_overlay(const char *scratch, const char *name, char *why)
{
    char place[PATH_MAX - 16], options[3 * PATH_MAX], upper[PATH_MAX], work[PATH_MAX];
    struct stat image;
    if (snprintf(place, sizeof place, "%s/%s", scratch, name) >= (int)sizeof place) {
        errno = ENAMETOOLONG;
        return failed(why, "scratch", name);
    }
    join(upper, place, "/upper");
    join(work, place, "/work");
    join(root, place, "/root");
    if (mkdir(place, 0700) != 0 || mkdir(upper, 0755) != 0 || mkdir(work, 0700) != 0 || mkdir(root, 0700) != 0)
        return failed(why, "cannot make", place);
    if (stat("/", &image) != 0 || chown(upper, image.st_uid, image.st_gid) != 0 ||
        chmod(upper, image.st_mode & 07777) != 0)
        return failed(why, "cannot set up", upper);
    snprintf(options, sizeof options, "lowerdir=/,upperdir=%s,workdir=%s", upper, work);
    if (mount("overlay", root, "overlay", MS_NODEV, options) != 0)
        return failed(why, "cannot mount an overlay at", root);
    return 0;
}

static int make_devices(char *why)
{
    if (show("/dev") != 0)
        return failed(why, "cannot show", "/dev");
    if (fresh("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5") != 0)
        return failed(why, "cannot mount", "/dev/pts");
    if (fresh("tmpfs", "/dev/shm", PLAIN, "mode=1777,size=64m") != 0)
        return failed(why, "cannot mount", "/dev/shm");
    if (fresh("mqueue", "/dev/mqueue", PLAIN, NULL) != 0 && errno != ENOENT && errno != ENODEV)
        return failed(why, "cannot mount", "/dev/mqueue");
    return lock("/dev", MS_NOSUID | MS_NOEXEC) == 0 ? 0 : failed(why, "cannot lock", "/dev");
}

/* The cell's own cgroups, where programs look for their limits. It is no harm where they can't be shown. */
static void show_cgroups(const char *name)
{
    char source[PATH_MAX], target[PATH_MAX];
    struct stat status;
    snprintf(source, sizeof source, "/sys/fs/cgroup/%s", name);
    if (stat(source, &status) == 0 && join(target, root, "/sys/fs/cgroup") == 0) {
        mount(source, target, NULL, MS_BIND, NULL); /* v2: one tree */
        lock("/sys/fs/cgroup", PLAIN);
        return;
    }
    if (show("/sys/fs/cgroup") != 0)
        return;
    DIR *controllers = opendir("/sys/fs/cgroup");
    for (struct dirent *each; controllers != NULL && (each = readdir(controllers)) != NULL;) {
        if (each->d_name[0] == '.' || each->d_type != DT_DIR)
            continue;
        char place[PATH_MAX];
        snprintf(place, sizeof place, "/sys/fs/cgroup/%s", each->d_name);
        if (snprintf(source, sizeof source, "%s/%s", place, name) >= (int)sizeof source ||
            stat(source, &status) != 0 || join(target, root, place) != 0)
            continue;
        if (mount(source, target, NULL, MS_BIND, NULL) == 0)
            lock(place, PLAIN);
    }
    if (controllers != NULL)
        closedir(controllers);
    lock("/sys/fs/cgroup", PLAIN);
}

static int hide(char *why)
{
    struct stat status;
    char target[PATH_MAX];
    for (const char *const *each = read_only; *each != NULL; each++) {
        if (join(target, root, *each) != 0 || stat(target, &status) != 0)
            continue;
        if (mount(target, target, NULL, MS_BIND, NULL) != 0 || lock(*each, PLAIN) != 0)
            return failed(why, "cannot lock", *each);
    }
    for (const char *const *each = masked; *each != NULL; each++) {
        if (join(target, root, *each) != 0 || stat(target, &status) != 0)
            continue;
        int done = S_ISDIR(status.st_mode) ? mount("tmpfs", target, "tmpfs", MS_RDONLY | PLAIN, "size=0")
                                           : mount("/dev/null", target, NULL, MS_BIND, NULL);
        if (done != 0)
            return failed(why, "cannot hide", *each);
    }
    return 0;
}

/*
 * Not by pivot_root, which the engine's filter denies whatever the capabilities: the view is moved over the root, and
 * the host's directory, where others' files are, is unmounted from behind. A task can't leave: it has no way to another
 * root (chroot, setns and new namespaces want what it has not), and nothing open beyond.
 */
static int enter(const char *scratch, char *why)
{
    int behind = open(scratch, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (behind < 0 || chdir(root) != 0 || mount(".", "/", NULL, MS_MOVE, NULL) != 0 || chroot(".") != 0)
        return failed(why, "cannot enter", root);
    if (fchdir(behind) != 0 || chdir("..") != 0 || umount2(".", MNT_DETACH) != 0 || chdir("/") != 0)
        return failed(why, "cannot leave", scratch);
    close(behind);
    return 0;
}

int view_enter(const char *scratch, const char *name, char *why)
{
    static const char *const shown[] = {"/etc/hosts", "/etc/resolv.conf", "/etc/hostname", NULL};
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        return failed(why, "cannot make private", "/");
    if (make_overlay(scratch, name, why) != 0)
        return -1;
    if (fresh("proc", "/proc", PLAIN, NULL) != 0)
        return failed(why, "cannot mount", "/proc");
    if (make_devices(why) != 0)
        return -1;
    if (show("/sys") == 0) {
        if (lock("/sys", PLAIN) != 0)
            return failed(why, "cannot lock", "/sys");
        show_cgroups(name);
    }
    if (hide(why) != 0)
        return -1;
    for (const char *const *each = shown; *each != NULL; each++)
        if (show(*each) == 0 && lock(*each, 0) != 0)
            return failed(why, "cannot lock", *each);
    return enter(scratch, why);
}
