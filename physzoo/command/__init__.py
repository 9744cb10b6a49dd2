"""Around the command line: where files and paths come from, and how a command ends."""
