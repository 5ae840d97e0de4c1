/*
 * The first process of a cell. It makes the cell's view, waits for its one task, starts it, passes signals on and says
 * how it ended. When it ends itself, the kernel kills whatever else is in its pid namespace.
 */
#define _GNU_SOURCE
#include "cell.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static char message[MAX_MESSAGE];

const char *next_field(struct fields *fields)
{
    const char *field = fields->at;
    if (field >= fields->end)
        return "";
    fields->at = field + strnlen(field, (size_t)(fields->end - field)) + 1;
    return field;
}

int64_t number_of(const char *text, int64_t most)
{
    int64_t value = 0;
    if (*text == '\0')
        return -1;
    for (; *text >= '0' && *text <= '9'; text++) {
        value = value * 10 + (*text - '0');
        if (value > most)
            return -1;
    }
    return *text == '\0' ? value : -1;
}

static void tell(int channel, struct told *told)
{
    /* Whoever does not hear it any more is dead, and so are we in a moment. */
    while (send(channel, told, sizeof *told, MSG_NOSIGNAL) < 0 && errno == EINTR)
        ;
}

static _Noreturn void give_up(int channel, const char *why)
{
    struct told told = {.kind = TOLD_FAILED};
    snprintf(told.why, sizeof told.why, "%s", why);
    tell(channel, &told);
    _exit(1);
}

/* Closes all that was inherited besides what is needed: other cells' pipes, the init's connections. */
static void keep_needed(const struct cell_settings *settings)
{
    int kept[MAX_FDS + 2] = {settings->channel, settings->output}, count = 2;
    unsigned int from = 3;
    for (int i = 0; i < settings->cgroup_count; i++)
        kept[count++] = settings->cgroups[i];
    for (;;) {
        int next = -1;
        for (int i = 0; i < count; i++)
            if (kept[i] >= (int)from && (next < 0 || kept[i] < next))
                next = kept[i];
        unsigned int to = next < 0 ? ~0U : (unsigned int)next - 1;
        if (to >= from)
            syscall(SYS_close_range, from, to, 0);
        if (next < 0)
            return;
        from = (unsigned int)next + 1;
    }
}

static void join_cgroups(const struct cell_settings *settings)
{
    char why[MAX_WHY];
    for (int i = 0; i < settings->cgroup_count; i++) {
        if (write(settings->cgroups[i], "0", 1) != 1) {
            snprintf(why, sizeof why, "cannot join cgroup %d: %s", i, strerror(errno));
            give_up(settings->channel, why);
        }
        close(settings->cgroups[i]);
    }
}

/* Forks the task and waits until it has become its program; its pid. Its failure to do so is told. */
static pid_t begin(const struct cell_settings *settings, struct fields request)
{
    int report[2];
    char why[MAX_WHY] = "";
    if (pipe2(report, O_CLOEXEC) != 0)
        give_up(settings->channel, "no pipe");
    pid_t pid = fork();
    if (pid < 0)
        give_up(settings->channel, "cannot fork: the limit of processes, or of memory, is reached");
    if (pid == 0) {
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        task_exec(request, settings->capabilities, settings->output, why);
        if (write(report[1], why, strlen(why)) < 0)
            _exit(126);
        _exit(127);
    }
    close(report[1]);
    ssize_t size = read(report[0], why, sizeof why - 1);
    close(report[0]);
    if (size > 0) {
        why[size] = '\0';
        give_up(settings->channel, why);
    }
    return pid;
}

static int64_t microseconds(struct timeval time)
{
    return (int64_t)time.tv_sec * 1000000 + time.tv_usec;
}

/* Reaps what has ended. True when the task itself has; then `told` says how. */
static int reap(pid_t task, struct told *told)
{
    int ended = 0, status;
    struct rusage usage;
    for (pid_t pid; (pid = wait4(-1, &status, WNOHANG, &usage)) > 0;) {
        if (pid != task)
            continue;
        ended = 1;
        told->status = status;
        told->user_us = microseconds(usage.ru_utime);
        told->system_us = microseconds(usage.ru_stime);
        told->max_rss_kib = usage.ru_maxrss;
    }
    return ended;
}

/* The life of the task: signals go to its process group, the end is told. */
static _Noreturn void watch(const struct cell_settings *settings, pid_t task, int children)
{
    struct told told = {.kind = TOLD_ENDED};
    int ordered = 0;
    struct pollfd wait_for[2] = {{.fd = children, .events = POLLIN}, {.fd = settings->channel, .events = POLLIN}};
    for (;;) {
        struct signalfd_siginfo info;
        struct order order;
        if (poll(wait_for, 2, -1) < 0 && errno != EINTR)
            _exit(1);
        if (wait_for[1].revents != 0) {
            ssize_t size = recv(settings->channel, &order, sizeof order, MSG_DONTWAIT);
            if (size == 0)
                _exit(1); /* the init is gone, and so is the container */
            if (size == (ssize_t)sizeof order && order.kind == 'k') {
                ordered = 1;
                kill(-task, order.signal);
            }
        }
        while (read(children, &info, sizeof info) > 0)
            ;
        if (!reap(task, &told))
            continue;
        /* Anybody but us? The dead have just been reaped; who was told to end together with the task may still do so. */
        told.leaked = !ordered && kill(-1, 0) == 0;
        tell(settings->channel, &told);
        _exit(0);
    }
}

static _Noreturn void live(const struct cell_settings *settings)
{
    char why[MAX_WHY] = "";
    sigset_t all;
    prctl(PR_SET_DUMPABLE, 0); /* no task looks into us */
    keep_needed(settings);
    join_cgroups(settings);
    /* Blocked, not ignored: the first process of a pid namespace gets no signal that it does not handle. */
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    sigemptyset(&all);
    sigaddset(&all, SIGCHLD);
    int children = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
    if (children < 0 || view_enter(settings->scratch, settings->name, why) != 0)
        give_up(settings->channel, why);
    ssize_t size = recv(settings->channel, message, sizeof message, 0);
    if (size <= 0)
        _exit(0); /* not wanted any more */
    struct fields request = {message, message + size};
    pid_t task = begin(settings, request);
    struct told running = {.kind = TOLD_RUNNING};
    tell(settings->channel, &running);
    close(settings->output);
    watch(settings, task, children);
}

pid_t cell_start(const struct cell_settings *settings)
{
    long pid = syscall(SYS_clone, CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | SIGCHLD, 0L, 0L, 0L, 0L);
    if (pid == 0)
        live(settings);
    return (pid_t)pid;
}
