"""`gantry`, the command: a thin layer of words and exit codes over `libs/client`."""
