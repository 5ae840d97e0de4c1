/* spec-edit PATH < config.json: the shim's rewriting alone, for its tests. Status 1 and a reason when refused. */
#include "oci_spec.h"

#include <stdio.h>
#include <stdlib.h>

enum { ROOM = 64 * 1024 * 1024 };

int main(int argc, char **argv)
{
    struct oci_network network;
    size_t size, new_size;
    char *text = malloc(ROOM);
    if (argc != 2 || text == NULL)
        return 2;
    size = fread(text, 1, ROOM, stdin);
    /* An allocation of the exact size lets a sanitizer see a read behind the end. */
    char *exact = realloc(text, size ? size : 1);
    const char *why = oci_scan(exact, size, &network);
    if (why != NULL) {
        fprintf(stderr, "%s\n", why);
        free(exact);
        return 1;
    }
    char *changed = oci_with_network(exact, size, &network, argv[1], &new_size);
    if (changed == NULL)
        return 2;
    fwrite(changed, 1, new_size, stdout);
    free(changed);
    free(exact);
    return 0;
}
