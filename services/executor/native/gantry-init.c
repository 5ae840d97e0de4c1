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
#include "cell.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
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
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CELLS = 256, MAX_PEERS = 8, READ_BYTES = 64 * 1024 };

struct cell {
    enum { FREE, SPARE, STARTING, RUNNING, CLOSING, ENDED } state;
    char name[MAX_NAME], task[MAX_NAME];
    pid_t pid;
    int channel, output, log;
    size_t logged;
    int64_t began_ms, ended_ms;            /* of the clock on the wall */
    int64_t timeout_ms, grace_ms;          /* -1: none */
    int64_t term_at, kill_at;              /* of the clock that only goes on; 0: not */
    int signal, timed_out, has_told, status;
    struct told told;
};

static struct cell cells[MAX_CELLS];
static int peers[MAX_PEERS];
static const char *directory = "/.gantry/run";
static uint64_t capabilities;
static size_t output_bytes = 1024 * 1024;
static char message[MAX_MESSAGE];

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "gantry-init: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int64_t clock_ms(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
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

static void say_cell(int *to, const struct cell *cell)
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

static void refuse(int *to, const char *name, const char *why)
{
    say(to, "refused\n%s\n%s\n", name, why);
}

/* -- cells ------------------------------------------------------------------------------------------ */

/* Names become files and cgroups: letters, digits, '.', '_' and '-', and no dot in front. */
static int is_name(const char *text)
{
    size_t size = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");
    return size > 0 && size < MAX_NAME && text[size] == '\0' && text[0] != '.';
}

static struct cell *find(const char *cell, const char *task)
{
    for (int i = 0; i < MAX_CELLS; i++)
        if (cells[i].state != FREE && (cell == NULL || strcmp(cells[i].name, cell) == 0) &&
            (task == NULL || strcmp(cells[i].task, task) == 0))
            return &cells[i];
    return NULL;
}

static void in_directory(char *path, const char *place, const char *name, const char *suffix)
{
    snprintf(path, PATH_MAX, "%s/%s/%s%s", directory, place, name, suffix);
}

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *walk)
{
    (void)status, (void)walk;
    return type == FTW_DP ? rmdir(path) : unlink(path), 0;
}

/* Removes what the cell's task wrote, in a process of its own: it may be much. The cell is dead: nobody races us. */
static void clear_scratch(const struct cell *cell)
{
    if (fork() != 0)
        return;
    char path[PATH_MAX];
    syscall(SYS_close_range, 3U, ~0U, 0);
    in_directory(path, "scratch", cell->name, "");
    nftw(path, remove_one, 64, FTW_DEPTH | FTW_PHYS | FTW_CHDIR);
    _exit(0);
}

static void forget(struct cell *cell)
{
    char path[PATH_MAX];
    if (cell->log >= 0)
        close(cell->log);
    in_directory(path, "out", cell->name, "");
    unlink(path);
    in_directory(path, "out", cell->name, ".1");
    unlink(path);
    cell->state = FREE;
}

static void prepare(int *peer, const char *name, const int *fds, int count)
{
    int channel[2], output[2];
    char path[PATH_MAX], scratch[PATH_MAX];
    struct cell *cell = NULL;
    for (int i = 0; i < MAX_CELLS && cell == NULL; i++)
        if (cells[i].state == FREE)
            cell = &cells[i];
    if (!is_name(name) || find(name, NULL) != NULL || cell == NULL) {
        refuse(peer, name, cell == NULL ? "there are too many cells" : "impossible, or there already");
        return;
    }
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, channel) != 0)
        die("socketpair");
    if (pipe2(output, O_CLOEXEC) != 0)
        die("pipe");
    int room = 2 * MAX_MESSAGE;
    setsockopt(channel[0], SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    *cell = (struct cell){.state = SPARE, .channel = channel[0], .output = output[0]};
    snprintf(cell->name, sizeof cell->name, "%s", name);
    in_directory(path, "out", name, "");
    snprintf(scratch, sizeof scratch, "%s/scratch", directory);
    cell->log = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    struct cell_settings settings = {.name = cell->name,
                                     .scratch = scratch,
                                     .capabilities = capabilities,
                                     .channel = channel[1],
                                     .output = output[1],
                                     .cgroups = fds,
                                     .cgroup_count = count};
    cell->pid = cell->log < 0 ? -1 : cell_start(&settings);
    int error = errno;
    close(channel[1]);
    close(output[1]);
    if (cell->pid < 0) {
        close(channel[0]);
        close(output[0]);
        forget(cell);
        refuse(peer, name, strerror(error));
        return;
    }
    fcntl(output[0], F_SETFL, O_NONBLOCK);
}

/* Keeps the last of what the task writes: at least `output_bytes`, at most twice that. True while there may be more. */
static int take_output(struct cell *cell)
{
    static char bytes[READ_BYTES];
    ssize_t size = read(cell->output, bytes, sizeof bytes);
    if (size <= 0)
        return 0;
    if (cell->logged + (size_t)size > output_bytes && cell->log >= 0) {
        char path[PATH_MAX], old[PATH_MAX];
        in_directory(path, "out", cell->name, "");
        in_directory(old, "out", cell->name, ".1");
        close(cell->log);
        rename(path, old);
        cell->log = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
        cell->logged = 0;
    }
    if (cell->log >= 0 && write(cell->log, bytes, (size_t)size) > 0) /* a full disk costs output, no more */
        cell->logged += (size_t)size;
    return 1;
}

/* The cell's processes are dead, all of them. */
static void end(struct cell *cell)
{
    if (cell->output >= 0) {
        for (size_t most = 0; most < output_bytes * 2 && take_output(cell); most += READ_BYTES)
            ;
        close(cell->output);
    }
    close(cell->channel);
    cell->channel = cell->output = -1;
    clear_scratch(cell);
    cell->ended_ms = clock_ms(CLOCK_REALTIME);
    if (cell->has_told)
        cell->status = cell->told.status;
    if (cell->state == SPARE) {
        refuse(NULL, cell->name, cell->told.why[0] != '\0' ? cell->told.why : "the cell has ended");
        forget(cell);
        return;
    }
    if (cell->state == STARTING && !cell->has_told) {
        cell->told.kind = TOLD_FAILED;
        snprintf(cell->told.why, sizeof cell->told.why, "killed before it ran");
    }
    cell->state = ENDED;
    cell->term_at = cell->kill_at = 0;
    say_cell(NULL, cell);
}

static void note(struct cell *cell, const struct told *told)
{
    cell->told = *told;
    cell->has_told = 1;
    cell->told.why[MAX_WHY - 1] = '\0';
    for (char *each = cell->told.why; *each != '\0'; each++)
        if ((unsigned char)*each < ' ')
            *each = ' '; /* it becomes a field */
}

/* Takes one message of a cell's; false when there is none. */
static int hear(struct cell *cell)
{
    struct told told;
    ssize_t size = recv(cell->channel, &told, sizeof told, MSG_DONTWAIT);
    if (size != (ssize_t)sizeof told) {
        if (size == 0 && cell->state == RUNNING)
            cell->state = CLOSING; /* it is dying: its pid comes by signal */
        return 0;
    }
    if (told.kind == TOLD_RUNNING) {
        cell->state = RUNNING;
        say_cell(NULL, cell);
    } else {
        note(cell, &told);
    }
    return 1;
}

static void reap(void)
{
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
        for (int i = 0; i < MAX_CELLS; i++)
            if (cells[i].state != FREE && cells[i].state != ENDED && cells[i].pid == pid) {
                while (hear(&cells[i])) /* what it said before it died */
                    ;
                cells[i].status = status;
                end(&cells[i]);
            }
}

/* -- requests ----------------------------------------------------------------------------------- */

static void start(int *peer, const char *request, size_t size)
{
    struct fields fields = {request, request + size};
    next_field(&fields);
    const char *name = next_field(&fields), *task = next_field(&fields);
    next_field(&fields); /* user and directory are the cell's */
    next_field(&fields);
    int64_t timeout_ms = number_of(next_field(&fields), INT_MAX), grace_ms = number_of(next_field(&fields), INT_MAX);
    int64_t number = number_of(next_field(&fields), 64), count = number_of(next_field(&fields), MAX_MESSAGE);
    struct cell *known = find(NULL, task), *cell = find(name, NULL);
    if (known != NULL && is_name(task)) {
        say_cell(peer, known); /* asked twice: once is enough */
        return;
    }
    if (!is_name(task) || timeout_ms < 0 || grace_ms < 0 || number < 1 || count < 1) {
        refuse(peer, task, "the request cannot be read");
        return;
    }
    if (cell == NULL || cell->state != SPARE) {
        refuse(peer, task, "there is no such spare cell");
        return;
    }
    snprintf(cell->task, sizeof cell->task, "%s", task);
    cell->state = STARTING;
    cell->timeout_ms = timeout_ms;
    cell->grace_ms = grace_ms;
    cell->signal = (int)number;
    cell->began_ms = clock_ms(CLOCK_REALTIME);
    if (timeout_ms > 0)
        cell->term_at = clock_ms(CLOCK_BOOTTIME) + timeout_ms;
    if (send(cell->channel, request, size, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)size)
        kill(cell->pid, SIGKILL);
}

static void stop(struct cell *cell, int number, int64_t grace_ms)
{
    struct order order = {.kind = 'k', .signal = number};
    int64_t kill_at = clock_ms(CLOCK_BOOTTIME) + grace_ms;
    if (grace_ms <= 0 || cell->state == STARTING) {
        kill(cell->pid, SIGKILL);
        return;
    }
    send(cell->channel, &order, sizeof order, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (cell->kill_at == 0 || kill_at < cell->kill_at)
        cell->kill_at = kill_at;
}

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
        int64_t number = number_of(next_field(&fields), 64), grace_ms = number_of(next_field(&fields), INT_MAX);
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

/* -- time ------------------------------------------------------------------------------------------- */

static void keep_time(void)
{
    int64_t now = clock_ms(CLOCK_BOOTTIME);
    for (int i = 0; i < MAX_CELLS; i++) {
        struct cell *cell = &cells[i];
        if (cell->term_at != 0 && now >= cell->term_at) {
            cell->term_at = 0;
            cell->timed_out = 1;
            stop(cell, cell->signal, cell->grace_ms);
        }
        if (cell->kill_at != 0 && now >= cell->kill_at) {
            cell->kill_at = 0;
            kill(cell->pid, SIGKILL);
        }
    }
}

/* How long to sleep at most, in milliseconds; -1: until something happens. */
static int patience(void)
{
    int64_t next = INT64_MAX, now = clock_ms(CLOCK_BOOTTIME);
    for (int i = 0; i < MAX_CELLS; i++) {
        if (cells[i].term_at != 0 && cells[i].term_at < next)
            next = cells[i].term_at;
        if (cells[i].kill_at != 0 && cells[i].kill_at < next)
            next = cells[i].kill_at;
    }
    if (next == INT64_MAX)
        return -1;
    return next <= now ? 0 : next - now > 60000 ? 60000 : (int)(next - now);
}

/* -- */

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
