"""Where the votes are counted: units out to workers, counts back, a crash-safe record of both."""
