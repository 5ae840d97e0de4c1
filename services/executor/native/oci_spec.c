/*
 * A JSON reader (RFC 8259) that knows one place: the objects in the array at linux.namespaces.
 *
 * runc reads the spec with Go's encoding/json, which matches keys without regard to case and lets the last
 * of two equal keys win. A reader that understood the text otherwise than runc does could be led astray, so on
 * the way to the namespaces every key that the two might read differently is refused, not interpreted.
 */
#include "oci_spec.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MAX_DEPTH = 64 };

/* Where in the document a value stands. */
enum role { OTHER, ROOT, LINUX, NAMESPACES, NAMESPACE };

struct reader {
    const char *text;
    size_t length;
    size_t at;
    int depth;
    const char *error;
    struct oci_network *out;
};

/* One namespace entry while it is read. */
struct entry {
    int has_type, is_network, has_path;
    struct oci_span path;
};

static int read_value(struct reader *r, enum role role);

static int fail(struct reader *r, const char *why)
{
    if (r->error == NULL)
        r->error = why;
    return 0;
}

static int peek(const struct reader *r)
{
    return r->at < r->length ? (unsigned char)r->text[r->at] : -1;
}

static void skip_space(struct reader *r)
{
    int c;
    while ((c = peek(r)) == ' ' || c == '\t' || c == '\n' || c == '\r')
        r->at++;
}

static int is_digit(int c) { return c >= '0' && c <= '9'; }

static int is_hex(int c)
{
    return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* Reads a string; `inside` gets its raw text, `plain` whether that holds no escape and only ASCII. */
static int read_string(struct reader *r, struct oci_span *inside, int *plain)
{
    if (peek(r) != '"')
        return fail(r, "a string is missing");
    inside->from = ++r->at;
    *plain = 1;
    for (;;) {
        int c = peek(r);
        if (c < 0x20)
            return fail(r, c < 0 ? "a string does not end" : "a control character in a string");
        if (c == '"')
            break;
        r->at++;
        if (c >= 0x80)
            *plain = 0;
        if (c != '\\')
            continue;
        *plain = 0;
        c = peek(r);
        r->at++;
        if (c == 'u') {
            for (int i = 0; i < 4; i++, r->at++)
                if (!is_hex(peek(r)))
                    return fail(r, "a broken \\u escape");
        } else if (c <= 0 || strchr("\"\\/bfnrt", c) == NULL) {
            return fail(r, "an unknown escape");
        }
    }
    inside->to = r->at++;
    return 1;
}

static int read_digits(struct reader *r)
{
    if (!is_digit(peek(r)))
        return fail(r, "a broken number");
    while (is_digit(peek(r)))
        r->at++;
    return 1;
}

static int read_number(struct reader *r)
{
    if (peek(r) == '-')
        r->at++;
    if (peek(r) == '0')
        r->at++;
    else if (!read_digits(r))
        return 0;
    if (peek(r) == '.') {
        r->at++;
        if (!read_digits(r))
            return 0;
    }
    if (peek(r) == 'e' || peek(r) == 'E') {
        r->at++;
        if (peek(r) == '+' || peek(r) == '-')
            r->at++;
        if (!read_digits(r))
            return 0;
    }
    return 1;
}

static int read_literal(struct reader *r, const char *word)
{
    size_t size = strlen(word);
    if (r->length - r->at < size || memcmp(r->text + r->at, word, size) != 0)
        return fail(r, "an unknown word");
    r->at += size;
    return 1;
}

static int same(const struct reader *r, struct oci_span span, const char *word)
{
    return span.to - span.from == strlen(word) &&
           memcmp(r->text + span.from, word, span.to - span.from) == 0;
}

/* Is this the key `word`? Sets *seen; a second one, or one that differs in case, is an error. */
static int is_key(struct reader *r, struct oci_span key, const char *word, int *seen)
{
    size_t size = strlen(word);
    if (key.to - key.from != size || strncasecmp(r->text + key.from, word, size) != 0)
        return 0;
    if (!same(r, key, word))
        return fail(r, "a key differs from the one runc reads in case only");
    if (*seen)
        return fail(r, "a key stands twice");
    return *seen = 1;
}

static int read_entry_member(struct reader *r, struct oci_span key, struct entry *entry)
{
    struct oci_span value;
    int plain;
    int is_type = is_key(r, key, "type", &entry->has_type);
    int is_path = !is_type && is_key(r, key, "path", &entry->has_path);
    if (r->error != NULL)
        return 0;
    if (!is_type && !is_path)
        return fail(r, "a namespace has a field other than type and path");
    if (!read_string(r, &value, &plain))
        return 0;
    if (!plain)
        return fail(r, "a namespace's type or path holds an escape");
    if (is_type)
        entry->is_network = same(r, value, "network");
    else
        entry->path = value;
    return 1;
}

static int keep_entry(struct reader *r, size_t from, const struct entry *entry)
{
    struct oci_network *out = r->out;
    if (!entry->has_type)
        return fail(r, "a namespace has no type");
    out->entry_count++;
    if (!entry->is_network)
        return 1;
    if (++out->network_count > 1)
        return fail(r, "there are two network namespaces");
    out->entry = (struct oci_span){from, r->at};
    out->has_path = entry->has_path;
    out->path = entry->path;
    return 1;
}

static int read_member(struct reader *r, enum role role, int *seen, struct entry *entry)
{
    struct oci_span key;
    int plain;
    enum role inner = OTHER;
    if (!read_string(r, &key, &plain))
        return 0;
    if (role != OTHER && !plain)
        return fail(r, "a key on the way to the namespaces holds an escape");
    if (role == ROOT && is_key(r, key, "linux", seen))
        inner = LINUX;
    else if (role == LINUX && is_key(r, key, "namespaces", seen))
        inner = NAMESPACES;
    if (r->error != NULL)
        return 0;
    skip_space(r);
    if (peek(r) != ':')
        return fail(r, "a colon is missing");
    r->at++;
    skip_space(r);
    return role == NAMESPACE ? read_entry_member(r, key, entry) : read_value(r, inner);
}

static int read_object(struct reader *r, enum role role)
{
    size_t from = r->at++;
    struct entry entry = {0};
    int seen = 0;
    skip_space(r);
    if (peek(r) == '}') {
        r->at++;
    } else {
        for (;;) {
            if (!read_member(r, role, &seen, &entry))
                return 0;
            skip_space(r);
            int c = peek(r);
            r->at++;
            if (c == '}')
                break;
            if (c != ',')
                return fail(r, "an object does not end");
            skip_space(r);
        }
    }
    return role == NAMESPACE ? keep_entry(r, from, &entry) : 1;
}

static int read_array(struct reader *r, enum role role)
{
    r->at++;
    if (role == NAMESPACES) {
        r->out->has_namespaces = 1;
        r->out->insert_at = r->at;
    }
    skip_space(r);
    if (peek(r) == ']') {
        r->at++;
        return 1;
    }
    for (;;) {
        if (!read_value(r, role == NAMESPACES ? NAMESPACE : OTHER))
            return 0;
        skip_space(r);
        int c = peek(r);
        r->at++;
        if (c == ']')
            return 1;
        if (c != ',')
            return fail(r, "an array does not end");
        skip_space(r);
    }
}

static int read_value(struct reader *r, enum role role)
{
    struct oci_span ignored_span;
    int ignored, done, c = peek(r);
    if ((role == ROOT || role == LINUX || role == NAMESPACE) && c != '{')
        return fail(r, "an object is missing on the way to the namespaces");
    if (role == NAMESPACES && c != '[')
        return fail(r, "linux.namespaces is not an array");
    if (c != '{' && c != '[') {
        if (c == '"')
            return read_string(r, &ignored_span, &ignored);
        if (c == '-' || is_digit(c))
            return read_number(r);
        return read_literal(r, c == 't' ? "true" : c == 'f' ? "false" : "null");
    }
    if (++r->depth > MAX_DEPTH)
        return fail(r, "it is nested too deeply");
    done = c == '{' ? read_object(r, role) : read_array(r, role);
    r->depth--;
    return done;
}

const char *oci_scan(const char *text, size_t length, struct oci_network *out)
{
    struct reader r = {.text = text, .length = length, .out = out};
    memset(out, 0, sizeof *out);
    skip_space(&r);
    if (!read_value(&r, ROOT))
        return r.error;
    skip_space(&r);
    if (r.at != length)
        return "something follows the document";
    return out->has_namespaces ? NULL : "it has no linux.namespaces";
}

char *oci_with_network(const char *text, size_t length, const struct oci_network *network,
                       const char *path, size_t *out_length)
{
    static const char head[] = "{\"type\":\"network\",\"path\":\"";
    struct oci_span cut = {network->insert_at, network->insert_at};
    const char *tail = network->entry_count > 0 ? "\"}," : "\"}";
    if (network->network_count > 0) {
        cut = network->entry;
        tail = "\"}";
    }
    const char *parts[] = {text, head, path, tail, text + cut.to};
    size_t sizes[] = {cut.from, strlen(head), strlen(path), strlen(tail), length - cut.to};
    char *result = malloc(length + sizes[1] + sizes[2] + sizes[3] + 1), *end = result;
    if (result == NULL)
        return NULL;
    for (int i = 0; i < 5; i++) {
        memcpy(end, parts[i], sizes[i]);
        end += sizes[i];
    }
    *end = '\0';
    *out_length = (size_t)(end - result);
    return result;
}
