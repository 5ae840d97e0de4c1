/* A cell: a process with pid, mount and ipc namespaces of its own and a private view of the image, for one task. */
#ifndef GANTRY_CELL_H
#define GANTRY_CELL_H

#include <stdint.h>
#include <sys/types.h>

/* Longer than any time-out or grace that a job may ask for. */
#define MAX_WAIT_MS INT64_C(34560000000)

enum { MAX_MESSAGE = 256 * 1024, MAX_NAME = 256, MAX_FDS = 8, MAX_WHY = 256 };

/* The fields of a message: NUL-terminated strings, one after the other, in `text` of `size` bytes. */
struct fields {
    const char *at, *end;
};

/* The next field; "" when there are no more. */
const char *next_field(struct fields *fields);

/* A whole number that is at least 0 and at most `most`; -1 when it is none. */
int64_t number_of(const char *text, int64_t most);

/* What a cell says of its task, over its channel; `kind` tells which. */
struct told {
    enum { TOLD_RUNNING = 1, TOLD_FAILED, TOLD_ENDED } kind;
    int status;  /* as wait(2) has it */
    int leaked;  /* processes were left when the task's own had ended by itself */
    int64_t user_us, system_us, max_rss_kib;
    char why[MAX_WHY];
};

/* What a cell is told: a message that begins with 's' (start, the request as it came) or is this. */
struct order {
    char kind; /* 'k' */
    int signal;
};

struct cell_settings {
    const char *name;      /* of the cell: its directory in scratch, and its cgroups */
    const char *scratch;   /* directory for what tasks write */
    uint64_t capabilities; /* that a task of root's has */
    int channel;           /* to whoever started it */
    int output;            /* stdout and stderr of the task */
    const int *cgroups;    /* open cgroup.procs files to join */
    int cgroup_count;
};

/* Starts a cell; its pid, or -1. What fails in it is told over its channel. */
pid_t cell_start(const struct cell_settings *settings);

/* In the cell's task: become what the request asks for. Returns only on failure, with the reason in `why`. */
void task_exec(struct fields request, uint64_t capabilities, int output, char *why);

/* In the cell: the image as the task is to see it becomes the root. 0, or -1 with the reason in `why`. */
int view_enter(const char *scratch, const char *name, char *why);

#endif
