/* See init.h. */
#define _GNU_SOURCE
#include "init.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { READ_BYTES = 64 * 1024 };

struct cell cells[MAX_CELLS];
const char *directory = "/.gantry/run";
uint64_t capabilities;
size_t output_bytes = 1024 * 1024;

static int64_t clock_ms(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Names become files and cgroups: letters, digits, '.', '_' and '-', and no dot in front. */
static int is_name(const char *text)
{
    size_t size = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");
    return size > 0 && size < MAX_NAME && text[size] == '\0' && text[0] != '.';
}

struct cell *find(const char *cell, const char *task)
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

/* Removes what is in directory `at` but directories that are not empty: those go to the top, under names of their own. */
static void empty(int at, int top, unsigned long *number)
{
    DIR *directory_stream = fdopendir(at);
    for (struct dirent *each; directory_stream != NULL && (each = readdir(directory_stream)) != NULL;) {
        char name[32];
        if (strcmp(each->d_name, ".") == 0 || strcmp(each->d_name, "..") == 0 ||
            unlinkat(at, each->d_name, 0) == 0 || unlinkat(at, each->d_name, AT_REMOVEDIR) == 0)
            continue;
        snprintf(name, sizeof name, ".%lu", ++*number);
        renameat(at, each->d_name, top, name);
    }
    if (directory_stream != NULL)
        closedir(directory_stream);
}

/*
 * Removes what the cell's task wrote, however deep it lies, in a process of its own: it may be much. The cell is dead:
 * nobody races us. Every directory comes to the top once and is emptied there, so that no path is long.
 */
static void clear_scratch(const struct cell *cell)
{
    if (fork() != 0)
        return;
    char path[PATH_MAX];
    syscall(SYS_close_range, 3U, ~0U, 0);
    in_directory(path, "scratch", cell->name, "");
    unsigned long number = 0;
    for (unsigned long before = 1; rmdir(path) != 0 && errno == ENOTEMPTY && before != number;) {
        int top = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), listed = dup(top);
        DIR *stream = listed < 0 ? NULL : fdopendir(listed);
        before = number;
        for (struct dirent *each; stream != NULL && (each = readdir(stream)) != NULL;) {
            if (strcmp(each->d_name, ".") == 0 || strcmp(each->d_name, "..") == 0)
                continue;
            int at = openat(top, each->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            if (at >= 0)
                empty(at, top, &number);
            if (unlinkat(top, each->d_name, AT_REMOVEDIR) != 0)
                unlinkat(top, each->d_name, 0);
        }
        if (stream != NULL)
            closedir(stream);
        close(top);
    }
    _exit(0);
}

void forget(struct cell *cell)
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

void prepare(int *peer, const char *name, const int *fds, int count)
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
int take_output(struct cell *cell)
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
int hear(struct cell *cell)
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

void reap(void)
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

void start(int *peer, const char *request, size_t size)
{
    struct fields fields = {request, request + size};
    next_field(&fields);
    const char *name = next_field(&fields), *task = next_field(&fields);
    next_field(&fields); /* user and directory are the cell's */
    next_field(&fields);
    int64_t timeout_ms = number_of(next_field(&fields), MAX_WAIT_MS), grace_ms = number_of(next_field(&fields), MAX_WAIT_MS);
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

void stop(struct cell *cell, int number, int64_t grace_ms)
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

void keep_time(void)
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
int patience(void)
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
