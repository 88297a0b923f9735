"""What every test shares: shapes and dtypes of ebsc are enforced, and one small model of each kind."""

from jaxtyping import install_import_hook

# before anything imports ebsc: pytest loads this file before it collects tests or the doctests of the package
install_import_hook("ebsc", "beartype.beartype")
