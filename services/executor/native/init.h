/* What gantry-init knows of its cells, and what is said of them. */
#ifndef GANTRY_INIT_H
#define GANTRY_INIT_H

#include "cell.h"

#include <stddef.h>

enum { MAX_CELLS = 256 };

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

extern struct cell cells[MAX_CELLS];
extern const char *directory; /* shared with the host */
extern uint64_t capabilities; /* of tasks */
extern size_t output_bytes;   /* of a task's output that are kept at least */

/* -- gantry-init.c: the connections */

_Noreturn void die(const char *what);

/* How a cell and its task are, to one peer, or to all (NULL). */
void say_cell(int *to, const struct cell *cell);

void refuse(int *to, const char *name, const char *why);

/* -- cells.c: from a request to the end of a task */

/* The cell of that name (or any, NULL) with that task (or any, NULL); NULL: there is none. */
struct cell *find(const char *cell, const char *task);

void prepare(int *peer, const char *name, const int *fds, int count);

/* `request` is the whole message. */
void start(int *peer, const char *request, size_t size);

/* A signal now, and KILL after the grace. */
void stop(struct cell *cell, int number, int64_t grace_ms);

/* Frees the place of a task that has ended, or of a cell that had none. */
void forget(struct cell *cell);

/* What came over a cell's channel, or by its output; false when there was nothing. */
int hear(struct cell *cell);
int take_output(struct cell *cell);

/* Takes in what has died. */
void reap(void);

/* Sends the signals that are due; milliseconds until the next are, -1: none. */
void keep_time(void);
int patience(void);

#endif
