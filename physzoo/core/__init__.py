"""The ground floor: argument checks, files, seeds, traces, and what a model is. Knows no other room; every room may use it."""
