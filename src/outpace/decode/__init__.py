"""One step of decoding, which library, command line and benchmark all run."""
