"""Compilation of engines on another machine through ssh."""
