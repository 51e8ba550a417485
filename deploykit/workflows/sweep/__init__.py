"""Sweeps: many exports, run one after the other on this machine or in parallel on a Ray cluster.

run          the workflow: skip finished cells, export the others, record each result, render the comparison
cell_inputs  the files that a cell reads, and the digest that identifies its result
outcome      the result of a cell, from its bundle or its error
record       results stored in the destination, so that finished cells are not exported again
process      one cell in its own process
local        executor on this machine
ray          executor on a Ray cluster, with retries on other nodes
schedule     assignment of cells to nodes
cluster      connection to the cluster, its nodes and their resources
node         the task that runs on a node
shipping     files that are sent to the nodes
archive      files as one stream with a digest: checkpoints and images to the nodes, bundles back

A cell is a command line of `deploykit export` and runs as its own process: it may crash or exhaust the memory without
affecting other cells, and options such as `--target auto` are resolved on the node that runs it.
"""
