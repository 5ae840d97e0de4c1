/*
 * From a cell's process to the task's program: user and groups as the image names them, no capability that was not
 * granted, no way back to privileges, its own session, and nothing open but stdin, stdout and stderr.
 */
#define _GNU_SOURCE
#include "cell.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MAX_GROUPS = 256, MAX_ID = 0x7fffffff };

struct identity {
    uid_t uid;
    gid_t gid;
    gid_t groups[MAX_GROUPS];
    size_t count;
    char home[256];
};

static int failed(char *why, const char *what, const char *name)
{
    snprintf(why, MAX_WHY, "%s %.120s: %s", what, name, strerror(errno));
    return -1;
}

static int refuse(char *why, const char *what, const char *name)
{
    snprintf(why, MAX_WHY, "%s %.120s", what, name);
    return -1;
}

/* The user's line in /etc/passwd, by name or number. */
static void look_up_user(const char *name, int64_t number, struct identity *who, char *found_name, size_t room)
{
    FILE *file = fopen("/etc/passwd", "re");
    for (struct passwd *each; file != NULL && (each = fgetpwent(file)) != NULL;) {
        if (number >= 0 ? (int64_t)each->pw_uid != number : strcmp(each->pw_name, name) != 0)
            continue;
        who->uid = each->pw_uid;
        who->gid = each->pw_gid;
        snprintf(who->home, sizeof who->home, "%s", each->pw_dir);
        snprintf(found_name, room, "%s", each->pw_name);
        break;
    }
    if (file != NULL)
        fclose(file);
}

/* Groups of which the user is a member, or the one group that was named. */
static int look_up_groups(const char *user, const char *group, struct identity *who)
{
    int64_t number = number_of(group, MAX_ID);
    int found = *group == '\0' || number >= 0;
    if (number >= 0)
        who->gid = (gid_t)number;
    FILE *file = fopen("/etc/group", "re");
    for (struct group *each; file != NULL && (each = fgetgrent(file)) != NULL;) {
        if (*group != '\0') {
            if (number < 0 && strcmp(each->gr_name, group) == 0) {
                who->gid = each->gr_gid;
                found = 1;
            }
            continue;
        }
        for (char **member = each->gr_mem; *member != NULL; member++)
            if (strcmp(*member, user) == 0 && who->count < MAX_GROUPS)
                who->groups[who->count++] = each->gr_gid;
    }
    if (file != NULL)
        fclose(file);
    return found ? 0 : -1;
}

/* `user` as `USER` or `USER:GROUP` of Docker's: names or numbers, by the image's own files. */
static int identify(const char *user, struct identity *who, char *why)
{
    char name[128], found[128] = "";
    *who = (struct identity){.home = "/"};
    size_t size = strcspn(user, ":");
    if (size >= sizeof name)
        return refuse(why, "too long a user:", user);
    memcpy(name, user, size);
    name[size] = '\0';
    const char *group = user[size] == ':' ? user + size + 1 : "";
    int64_t number = *name == '\0' ? 0 : number_of(name, MAX_ID);
    look_up_user(name, number, who, found, sizeof found);
    if (number >= 0)
        who->uid = (uid_t)number;
    else if (*found == '\0')
        return refuse(why, "the image's /etc/passwd has no user", name);
    if (look_up_groups(found, group, who) != 0)
        return refuse(why, "the image's /etc/group has no group", group);
    return 0;
}

#if defined(__x86_64__)
#define ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#else
#error "an architecture whose system calls are not known here"
#endif

#define DENY(error) BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ((error) & SECCOMP_RET_DATA))
#define ALLOW BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define REFUSE(call) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##call, 0, 1), DENY(EPERM)

/*
 * What the engine's own filter denies without CAP_SYS_ADMIN, and allows in this container because its init has that:
 * above all new user namespaces, which give a task capabilities over its own mounts.
 */
static int filter_calls(void)
{
    static const unsigned int namespaces = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC |
                                           CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;
    struct sock_filter program[] = {
        LOAD(arch),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCHITECTURE, 1, 0),
        DENY(ENOSYS), /* 32-bit calls */
        LOAD(nr),
#ifdef __x86_64__
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 0, 1), /* x32 */
        DENY(ENOSYS),
#endif
        /* glibc then takes clone, whose flags can be seen. */
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 0, 1),
        DENY(ENOSYS),
        REFUSE(bpf),
        REFUSE(fanotify_init),
        REFUSE(fsconfig),
        REFUSE(fsmount),
        REFUSE(fsopen),
        REFUSE(fspick),
        REFUSE(mount),
        REFUSE(mount_setattr),
        REFUSE(move_mount),
        REFUSE(open_tree),
        REFUSE(perf_event_open),
        REFUSE(quotactl),
        REFUSE(setdomainname),
        REFUSE(sethostname),
        REFUSE(setns),
        REFUSE(syslog),
        REFUSE(umount2),
        REFUSE(unshare),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 3),
        LOAD(args[0]),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, namespaces, 0, 1),
        DENY(EPERM),
        ALLOW,
    };
    struct sock_fprog filter = {.len = sizeof program / sizeof program[0], .filter = program};
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter, 0, 0);
}

/* Where AppArmor is on, the init is unconfined, as it must mount; the task is confined as Docker's containers are. */
static int confine(void)
{
    static const char profile[] = "exec docker-default";
    int fd = open("/proc/self/attr/apparmor/exec", O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t size = write(fd, profile, sizeof profile - 1);
    int known = size > 0 || errno != ENOENT; /* no such profile: the engine has none for its own either */
    close(fd);
    return size > 0 || !known ? 0 : -1;
}

static int drop(const struct identity *who, uint64_t capabilities, char *why)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    for (int each = 0; prctl(PR_CAPBSET_READ, each) >= 0; each++)
        if (!(capabilities >> each & 1) && prctl(PR_CAPBSET_DROP, each) != 0)
            return failed(why, "cannot give up", "capabilities");
    if (setgroups(who->count, who->groups) != 0 || setresgid(who->gid, who->gid, who->gid) != 0 ||
        setresuid(who->uid, who->uid, who->uid) != 0)
        return failed(why, "cannot become", "the user");
    if (syscall(SYS_capget, &header, data) != 0)
        return failed(why, "cannot read", "capabilities");
    for (int half = 0; half < 2; half++) {
        uint32_t allowed = (uint32_t)(capabilities >> (32 * half));
        data[half].inheritable = 0;
        data[half].permitted &= allowed;
        data[half].effective &= allowed;
    }
    if (syscall(SYS_capset, &header, data) != 0 || prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0)
        return failed(why, "cannot give up", "capabilities");
    return 0;
}

static int open_only_standard(int output, uid_t uid, char *why)
{
    int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
    /* The user may open /dev/stdout by its name, as in other containers. */
    if (nothing < 0 || fchown(output, uid, (gid_t)-1) != 0 || dup2(nothing, 0) < 0 || dup2(output, 1) < 0 ||
        dup2(output, 2) < 0 || syscall(SYS_close_range, 3U, ~0U, 1U << 2 /* CLOSE_RANGE_CLOEXEC */) != 0)
        return failed(why, "cannot set up", "stdin, stdout and stderr");
    return 0;
}

/* The rest of the request as argv and environ; both end with NULL. */
static char **take_words(struct fields *request, size_t count)
{
    char **words = calloc(count + 3, sizeof *words);
    for (size_t i = 0; words != NULL && i < count; i++)
        words[i] = (char *)(uintptr_t)next_field(request);
    return words;
}

static size_t count_words(struct fields request)
{
    size_t count = 0;
    for (; request.at < request.end; count++)
        next_field(&request);
    return count;
}

static int has_variable(char **environment, const char *name)
{
    size_t size = strlen(name);
    for (; *environment != NULL; environment++)
        if (strncmp(*environment, name, size) == 0 && (*environment)[size] == '=')
            return 1;
    return 0;
}

void task_exec(struct fields request, uint64_t capabilities, int output, char *why)
{
    static char home[300], path[] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    struct identity who;
    for (int skipped = 0; skipped < 3; skipped++) /* start, cell, task */
        next_field(&request);
    const char *user = next_field(&request), *directory = next_field(&request);
    for (int skipped = 0; skipped < 3; skipped++) /* time-out, grace, signal: the init's */
        next_field(&request);
    size_t count = (size_t)number_of(next_field(&request), MAX_MESSAGE);
    char **arguments = take_words(&request, count);
    size_t variables = count_words(request);
    environ = take_words(&request, variables);
    if (arguments == NULL || environ == NULL || count == 0 || arguments[0][0] == '\0') {
        refuse(why, "there is no command", "");
        return;
    }
    if (identify(user, &who, why) != 0 || open_only_standard(output, who.uid, why) != 0)
        return;
    snprintf(home, sizeof home, "HOME=%s", who.home);
    if (!has_variable(environ, "HOME"))
        environ[variables++] = home;
    if (!has_variable(environ, "PATH"))
        environ[variables] = path;
    setsid();
    umask(0022);
    signal(SIGPIPE, SIG_DFL);
    if (confine() != 0) {
        failed(why, "cannot enter the profile", "docker-default");
        return;
    }
    if (drop(&who, capabilities, why) != 0)
        return;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        (!(capabilities >> CAP_SYS_ADMIN & 1) && filter_calls() != 0)) {
        failed(why, "cannot filter", "system calls");
        return;
    }
    if (chdir(*directory != '\0' ? directory : "/") != 0) {
        failed(why, "working directory", directory);
        return;
    }
    execvp(arguments[0], arguments);
    failed(why, "exec", arguments[0]);
}
