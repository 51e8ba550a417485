"""Engines from another machine, reached through ssh."""
