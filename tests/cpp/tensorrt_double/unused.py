"""Classes in which every method aborts, for each interface behind TensorRT's engines, read from its own headers.

NVIDIA's classes hand all calls on to abstract ones with some 60 methods each, other ones in every version. The double
needs a dozen of them: it derives from what is written here, and overrides those.

    python3 unused.py NvInferImpl.h > unused.hpp
"""

import re
import sys
from pathlib import Path

INTERFACES = ("VRuntime", "VCudaEngine", "VExecutionContext")

text = Path(sys.argv[1]).read_text()
print("#pragma once\n#pragma GCC system_header\n#include <NvInferRuntime.h>\n#include <cstdlib>")
print("namespace nvinfer1::apiv {")
for name in INTERFACES:
    found = re.search(rf"class {name} : public VRoot\n{{(.*?)\n}};", text, re.DOTALL)
    if found is None:
        sys.exit(f"{sys.argv[1]} has no class {name}: the double must be written anew for this TensorRT")
    methods = found[1].replace("TRT_NODISCARD", "").replace("virtual ", "")
    print(f"class Unused{name} : public {name}\n{{{re.sub(r'= 0;', 'override { std::abort(); }', methods)}\n}};")
print("}")
