"""Cycle after cycle: a list of targets, each developed from what the one before delivered."""
