/*
 * gantry-init: the first process of a container that tasks share. It starts each in a cell of its own (cell.h), keeps
 * its output and its time-out, and tells how it ended until that is acknowledged: whoever asks may die meanwhile.
 *
 *   gantry-init [--dir=DIR] [--capabilities=HEX] [--output=BYTES]
 *
 * DIR (default /.gantry/run) is root's alone on the host: `control`, a SOCK_SEQPACKET socket, `out/` and `scratch/`.
 * A message is NUL-terminated fields, at most MAX_MESSAGE bytes. Requests:
 *
 *   prepare CELL                  with up to MAX_FDS open cgroup.procs, which the cell joins
 *   start CELL TASK USER DIRECTORY TIMEOUT_MS GRACE_MS SIGNAL ARGUMENTS argument… variable…
 *   kill TASK SIGNAL GRACE_MS     SIGNAL to its process group; all of it is killed after the grace
 *   ack TASK | drop CELL | list
 *
 * Answers, to all who are connected but for a list's:
 *
 *   spare CELL | running TASK CELL BEGAN_MS
 *   ended TASK CELL HOW CODE BEGAN_MS ENDED_MS TIMED_OUT LEAKED USER_US SYSTEM_US MAX_RSS_KIB WHY
 *                                 HOW: exit, signal, failed (it never ran)
 *   refused NAME WHY | listed COUNT
 */
#define _GNU_SOURCE
#include "init.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_PEERS = 8 };

static int peers[MAX_PEERS];
static char message[MAX_MESSAGE];

_Noreturn void die(const char *what)
{
    fprintf(stderr, "gantry-init: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* -- what is said --------------------------------------------------------------------------------- */

static void hang_up(int *peer)
{
    close(*peer);
    *peer = -1;
}

/* Says it to one peer, or to all; one that does not listen is cut off, and asks for a list when it is back. */
static void __attribute__((format(printf, 2, 3))) say(int *to, const char *format, ...)
{
    char text[4 * MAX_NAME + MAX_WHY + 256];
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (size < 0 || (size_t)size >= sizeof text)
        return;
    for (int i = 0; i < size; i++)
        if (text[i] == '\n')
            text[i] = '\0'; /* a field's end is written as a newline above */
    for (int i = 0; i < MAX_PEERS; i++) {
        if (peers[i] < 0 || (to != NULL && to != &peers[i]))
            continue;
        if (send(peers[i], text, (size_t)size, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
            hang_up(&peers[i]);
    }
}

void say_cell(int *to, const struct cell *cell)
{
    const struct told *told = &cell->told;
    if (cell->state == SPARE)
        say(to, "spare\n%s\n", cell->name);
    else if (cell->state == RUNNING || cell->state == CLOSING)
        say(to, "running\n%s\n%s\n%lld\n", cell->task, cell->name, (long long)cell->began_ms);
    if (cell->state != ENDED)
        return;
    const char *how = told->kind == TOLD_FAILED ? "failed" : WIFSIGNALED(cell->status) ? "signal" : "exit";
    int code = WIFSIGNALED(cell->status) ? WTERMSIG(cell->status) : WEXITSTATUS(cell->status);
    say(to, "ended\n%s\n%s\n%s\n%d\n%lld\n%lld\n%d\n%d\n%lld\n%lld\n%lld\n%s\n", cell->task, cell->name, how, code,
        (long long)cell->began_ms, (long long)cell->ended_ms, cell->timed_out, told->leaked,
        (long long)told->user_us, (long long)told->system_us, (long long)told->max_rss_kib, told->why);
}

void refuse(int *to, const char *name, const char *why)
{
    say(to, "refused\n%s\n%s\n", name, why);
}

/* -- requests ----------------------------------------------------------------------------------- */

static void list(int *peer)
{
    int count = 0;
    for (int i = 0; i < MAX_CELLS; i++)
        if (cells[i].state != FREE) {
            say_cell(peer, &cells[i]);
            count++;
        }
    say(peer, "listed\n%d\n", count);
}

static void obey(int *peer, size_t size, const int *fds, int count)
{
    struct fields fields = {message, message + size};
    const char *verb = next_field(&fields);
    if (strcmp(verb, "prepare") == 0) {
        prepare(peer, next_field(&fields), fds, count);
        return;
    }
    if (strcmp(verb, "start") == 0) {
        start(peer, message, size);
        return;
    }
    if (strcmp(verb, "list") == 0) {
        list(peer);
        return;
    }
    const char *name = next_field(&fields);
    int is_drop = strcmp(verb, "drop") == 0;
    struct cell *cell = *name == '\0' ? NULL : is_drop ? find(name, NULL) : find(NULL, name);
    if (cell == NULL)
        return; /* over and acknowledged */
    if (is_drop && cell->state == SPARE) {
        kill(cell->pid, SIGKILL);
    } else if (strcmp(verb, "ack") == 0 && cell->state == ENDED) {
        forget(cell);
    } else if (strcmp(verb, "kill") == 0 && cell->state != ENDED) {
        int64_t number = number_of(next_field(&fields), 64), grace_ms = number_of(next_field(&fields), MAX_WAIT_MS);
        if (number > 0 && grace_ms >= 0)
            stop(cell, (int)number, grace_ms);
    }
}

static void receive(int *peer)
{
    struct iovec part = {message, sizeof message};
    union {
        char room[CMSG_SPACE(MAX_FDS * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct msghdr header = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof control.room};
    ssize_t size = recvmsg(*peer, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    int fds[MAX_FDS], count = 0;
    struct cmsghdr *first = size > 0 ? CMSG_FIRSTHDR(&header) : NULL;
    if (first != NULL && first->cmsg_level == SOL_SOCKET && first->cmsg_type == SCM_RIGHTS) {
        count = (int)((first->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(fds, CMSG_DATA(first), (size_t)count * sizeof(int));
    }
    if (size <= 0)
        hang_up(peer);
    else if ((header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0 || message[size - 1] != '\0')
        refuse(peer, "", "the message is too long, or not whole");
    else
        obey(peer, (size_t)size, fds, count);
    for (int i = 0; i < count; i++)
        close(fds[i]);
}

/* Root outside of this container's pid namespace may talk to us, nobody else. */
static void welcome(int listener)
{
    struct ucred who;
    socklen_t size = sizeof who;
    int peer = accept4(listener, NULL, NULL, SOCK_CLOEXEC), room = 2 * MAX_MESSAGE;
    if (peer < 0)
        return;
    if (getsockopt(peer, SOL_SOCKET, SO_PEERCRED, &who, &size) == 0 && who.uid == 0 && who.pid == 0) {
        setsockopt(peer, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
        for (int i = 0; i < MAX_PEERS; i++)
            if (peers[i] < 0) {
                peers[i] = peer;
                return;
            }
    }
    close(peer);
}

/* -- the loop ------------------------------------------------------------------------------------ */

static int listen_at(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "control"); /* the directory's own path may be too long */
    if (chdir(directory) != 0)
        die(directory);
    mkdir("out", 0700);
    mkdir("scratch", 0700);
    unlink("control.new");
    unlink("control");
    umask(0077);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 64) != 0)
        die("control");
    if (chdir("/") != 0)
        die("/");
    return listener;
}

static void serve(int listener, int children)
{
    struct pollfd wait_for[2 + MAX_PEERS + 2 * MAX_CELLS];
    for (;;) {
        nfds_t count = 2;
        wait_for[0] = (struct pollfd){.fd = listener, .events = POLLIN};
        wait_for[1] = (struct pollfd){.fd = children, .events = POLLIN};
        for (int i = 0; i < MAX_PEERS; i++)
            wait_for[count++] = (struct pollfd){.fd = peers[i], .events = POLLIN};
        for (int i = 0; i < MAX_CELLS; i++) {
            int live = cells[i].state != FREE && cells[i].state != ENDED;
            wait_for[count++] = (struct pollfd){.fd = live && cells[i].state != CLOSING ? cells[i].channel : -1, .events = POLLIN};
            wait_for[count++] = (struct pollfd){.fd = live ? cells[i].output : -1, .events = POLLIN};
        }
        if (poll(wait_for, count, patience()) < 0 && errno != EINTR)
            die("poll");
        keep_time();
        for (int i = 0; i < MAX_CELLS; i++) {
            const struct pollfd *its = &wait_for[2 + MAX_PEERS + 2 * i];
            if (its[0].fd >= 0 && its[0].revents != 0)
                hear(&cells[i]);
            if (its[1].fd >= 0 && its[1].revents != 0 && !take_output(&cells[i]) && (its[1].revents & POLLHUP) != 0) {
                close(cells[i].output);
                cells[i].output = -1;
            }
        }
        struct signalfd_siginfo info;
        if (wait_for[1].revents != 0)
            while (read(children, &info, sizeof info) > 0)
                if (info.ssi_signo == SIGTERM)
                    exit(0); /* and the kernel kills the rest */
        reap();
        for (int i = 0; i < MAX_PEERS; i++)
            if (peers[i] >= 0 && wait_for[2 + i].fd == peers[i] && wait_for[2 + i].revents != 0)
                receive(&peers[i]);
        if (wait_for[0].revents != 0)
            welcome(listener);
    }
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "--dir=", 6) == 0)
            directory = argv[i] + 6;
        else if (strncmp(argv[i], "--capabilities=", 15) == 0)
            capabilities = strtoull(argv[i] + 15, NULL, 16);
        else if (strncmp(argv[i], "--output=", 9) == 0)
            output_bytes = strtoull(argv[i] + 9, NULL, 10);
        else
            return fprintf(stderr, "gantry-init: unknown argument %s\n", argv[i]), 2;
    }
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGCHLD);
    sigaddset(&signals, SIGTERM);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    prctl(PR_SET_DUMPABLE, 0);
    for (int i = 0; i < MAX_PEERS; i++)
        peers[i] = -1;
    int listener = listen_at(), children = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    if (children < 0)
        die("signalfd");
    serve(listener, children);
}
