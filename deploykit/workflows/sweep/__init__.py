"""Many exports as one piece of work: one after the other here, or side by side on a Ray cluster.

names      the files that a cell names, and the digest of all that it says
process    one cell in a process of its own
record     what became of each cell, in the destination, so that a finished one is never made again
run        the story: what is finished stays, the rest is made, kept as it comes, and compared
here       makes cells on this machine
fleet      makes cells on a cluster: which goes to which node, and again elsewhere where one is lost
cluster    the cluster itself: reached, its nodes, what they have
node       what runs on a node
parcel     files as one stream with a digest: checkpoints and images on their way out, bundles on their way back

A cell is the command line of `deploykit export`. That makes it a process, which may crash or take all memory without
harm to the others, and lets a node decide what only the node can know, such as what `--target auto` means there.
"""
