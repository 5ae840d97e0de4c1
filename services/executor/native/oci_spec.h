/* Finds and replaces the network namespace of an OCI runtime spec (config.json). No I/O. */
#ifndef GANTRY_OCI_SPEC_H
#define GANTRY_OCI_SPEC_H

#include <stddef.h>

struct oci_span {
    size_t from; /* byte offset of the first byte */
    size_t to;   /* byte offset behind the last byte */
};

/* What linux.namespaces says about the network. Spans are offsets into the scanned text. */
struct oci_network {
    int has_namespaces;    /* linux.namespaces exists and is an array */
    size_t insert_at;      /* just behind the array's '[' */
    int entry_count;       /* entries of any type */
    int network_count;     /* entries of type network */
    int has_path;          /* the network entry names a path */
    struct oci_span entry; /* the network entry's object, braces included */
    struct oci_span path;  /* the raw text of its path, quotes excluded; never holds an escape */
};

/* Reads the whole text as JSON and fills `out`. Returns NULL, or why the text is refused. */
const char *oci_scan(const char *text, size_t length, struct oci_network *out);

/*
 * Returns a malloc'ed copy of the text whose only network namespace is `path`, and its length in `out_length`;
 * NULL when memory is short. `path` holds no character that JSON escapes (the caller checks).
 */
char *oci_with_network(const char *text, size_t length, const struct oci_network *network,
                       const char *path, size_t *out_length);

#endif
