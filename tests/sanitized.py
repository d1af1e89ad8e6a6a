"""A pytest plugin for `make sanitize`: the native module of another build, named by OUTPACE_NATIVE."""

from __future__ import annotations

import os
import sys
from importlib.util import module_from_spec, spec_from_file_location

spec = spec_from_file_location("outpace._native", os.environ["OUTPACE_NATIVE"])
assert spec is not None and spec.loader is not None
module = module_from_spec(spec)
sys.modules["outpace._native"] = module
spec.loader.exec_module(module)
