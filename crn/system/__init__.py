"""The machine the program runs on: files, text, processes, hardware, startup and exit."""
