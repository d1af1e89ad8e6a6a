"""The loop body that library, command line, server and benchmark all run."""
