/* The sample web app: one static program, HTTP/1.1 on port 8080, for FROM-scratch images.
 *
 *   GET /        200 {"version":"v1","hostname":"…","pid":1}
 *   GET /health  200, or 500 in the "broken" variant
 *   else         404
 *
 * One process, poll() over all connections, keep-alive. SIGTERM: stop listening, finish requests
 * that have begun, answer each with "Connection: close", exit within DRAIN_MS at the most. The "crash"
 * variant exits with status 1 after a second. Built with -DVERSION="v1" -DVARIANT=… */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NORMAL 0
#define BROKEN 1
#define CRASH 2
#define PORT 8080
#define MAX_CONNECTIONS 512
#define MAX_REQUEST 4096
#define MAX_IDLE_MS 60000
#define IDLE_GRACE_MS 200 /* after SIGTERM: a request may be on its way over an idle connection */
#define DRAIN_MS 1000

struct connection {
    size_t used;      /* bytes of a request read so far */
    long long seen_ms; /* when the last byte came */
    char request[MAX_REQUEST + 1];
};

static struct pollfd polled[MAX_CONNECTIONS + 1]; /* [0] listens */
static struct connection connections[MAX_CONNECTIONS + 1];
static nfds_t count = 1;
static volatile sig_atomic_t stopping;

static void on_term(int signal) { (void)signal; stopping = 1; }

static long long now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

static void drop(nfds_t i) {
    close(polled[i].fd);
    count--;
    polled[i] = polled[count];
    connections[i] = connections[count];
}

static void accept_all(void) {
    while (count <= MAX_CONNECTIONS) {
        int fd = accept4(polled[0].fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) return;
        polled[count] = (struct pollfd){.fd = fd, .events = POLLIN};
        connections[count].used = 0;
        connections[count].seen_ms = now_ms();
        count++;
    }
}

/* Replies are far smaller than a socket's buffer: a short write means a peer worth dropping. */
static int answer(int fd, const char *request) {
    char host[65] = "", body[256], reply[512];
    int status = 404, head = !strncmp(request, "HEAD ", 5);
    const char *path = strchr(request, ' ');
    if (strncmp(request, "GET ", 4) && !head) status = 405;
    else if (path && (!strncmp(path, " / ", 3) || !strncmp(path, " /?", 3))) status = 200;
    else if (path && !strncmp(path, " /health ", 9)) status = VARIANT == BROKEN ? 500 : 200;
    gethostname(host, sizeof host - 1);
    int length = snprintf(body, sizeof body, "{\"version\":\"%s\",\"hostname\":\"%s\",\"pid\":%d}\n",
                          VERSION, host, (int)getpid());
    int close_it = stopping || status == 405 || strcasestr(request, "\r\nconnection: close") ||
                   strstr(request, " HTTP/1.0\r\n");
    int size = snprintf(reply, sizeof reply,
                        "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
                        "Connection: %s\r\n\r\n%s", status, status == 200 ? "OK" : "Error", length,
                        close_it ? "close" : "keep-alive", head ? "" : body);
    return send(fd, reply, size, MSG_NOSIGNAL) == size && !close_it;
}

/* Reads what is there and answers each whole request in it; 0 when the connection is over. */
static int serve(nfds_t i) {
    struct connection *c = &connections[i];
    ssize_t got = recv(polled[i].fd, c->request + c->used, MAX_REQUEST - c->used, 0);
    if (got < 0) return errno == EAGAIN || errno == EINTR;
    if (got == 0) return 0;
    c->used += got;
    c->seen_ms = now_ms();
    c->request[c->used] = 0;
    for (char *end; (end = strstr(c->request, "\r\n\r\n"));) {
        size_t size = end + 4 - c->request;
        char after = c->request[size];
        c->request[size] = 0;
        if (!answer(polled[i].fd, c->request)) return 0;
        c->request[size] = after;
        c->used -= size;
        memmove(c->request, c->request + size, c->used + 1);
    }
    return c->used < MAX_REQUEST; /* a head that fills the buffer is no request for us */
}

static void sweep(long long term_ms) {
    long long now = now_ms();
    for (nfds_t i = count - 1; i >= 1; i--) {
        int begun = connections[i].used > 0, fresh = now - connections[i].seen_ms < MAX_IDLE_MS;
        if (term_ms ? !begun && now >= term_ms + IDLE_GRACE_MS : !fresh) drop(i);
    }
}

static int listen_on(int port) {
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    struct sockaddr_in any4 = {.sin_family = AF_INET, .sin_port = htons(port)};
    int yes = 1, no = 0, fd = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int v6 = fd >= 0; /* no IPv6 in this kernel: IPv4 alone */
    if (!v6) fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (v6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no);
    if (bind(fd, v6 ? (void *)&any : (void *)&any4, v6 ? sizeof any : sizeof any4) || listen(fd, 512)) {
        perror("listen");
        exit(2);
    }
    return fd;
}

int main(void) {
    struct sigaction term = {.sa_handler = on_term};
    long long term_ms = 0;
    sigaction(SIGTERM, &term, NULL);
    sigaction(SIGINT, &term, NULL);
    if (VARIANT == CRASH) {
        fprintf(stderr, "sample-crash: giving up as told\n");
        sleep(1);
        return 1;
    }
    polled[0] = (struct pollfd){.fd = listen_on(PORT), .events = POLLIN};
    printf("sample-web %s listens on port %d\n", VERSION, PORT);
    fflush(stdout);
    while (!stopping || count > 1) {
        if (stopping && !term_ms) {
            accept_all(); /* closing resets whoever is still in the queue */
            close(polled[0].fd);
            polled[0].fd = -1;
            term_ms = now_ms();
        }
        int ready = poll(polled, count, stopping ? 20 : 1000);
        if (term_ms && now_ms() >= term_ms + DRAIN_MS) break;
        if (ready > 0) {
            for (nfds_t i = count - 1; i >= 1; i--)
                if (polled[i].revents && !serve(i)) drop(i);
            if (polled[0].revents) accept_all();
        }
        while (waitpid(-1, NULL, WNOHANG) > 0) {} /* PID 1 reaps what `exec` left behind */
        sweep(term_ms);
    }
    printf("sample-web %s ends\n", VERSION);
    return 0;
}
