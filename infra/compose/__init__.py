"""What the distributed form needs beside docker-compose.yml; `docs/operations.md` has the how and when."""
