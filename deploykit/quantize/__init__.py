"""Precision in the graph: casts to 16 bits, calibration, INT8 as Q/DQ pairs, and the receipt of what ran."""
