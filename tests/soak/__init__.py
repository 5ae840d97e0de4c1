"""`make soak`: jobs on a real cluster of many processes whose scheduler's leader is killed again and again."""
