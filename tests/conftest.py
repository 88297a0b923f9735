"""What holds for every test: shapes and dtypes in the signatures of ebsc are enforced."""

import sys
from pathlib import Path

from jaxtyping import install_import_hook

# pytest puts tests/ on the path, where the folders tests/ebsc and tests/cluster would pass for packages of these names
sys.path.insert(0, str(Path(__file__).parents[1]))
# before anything imports ebsc: pytest loads this file before it collects tests or the doctests of the package
install_import_hook("ebsc", "beartype.beartype")
