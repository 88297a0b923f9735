"""``ebsc import`` and ``ebsc export``: from and to the field's form, ``idx label predict radius correct time``."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from cluster import certificates
from cluster.folder import RunFolder, read_run
from ebsc.errors import InputError, one_line
from ebsc.files import write_whole
from ebsc.model import check_sigma
from jobs.entries import check_sound, log_name, named_sigma
from jobs.options import parse_images
from jobs.prints import put, show_with
from jobs.provenance import configuration
from jobs.runs import certification

__all__ = ["Export", "Import"]


@dataclass(frozen=True, kw_only=True)
class Import:
    """Make a run folder of somebody's certification log, with what the log itself does not say.

    The log is kept as it is, so that its radii stay those of its authors, as they rounded them. The folder is a row of
    `ebsc table`, `ebsc plot` and `ebsc report`; it cannot be attacked, merged or extended, as it holds no votes.

    Example: ebsc import gaussian_sigma0.50.tsv --n 100000 --alpha 0.001
    """

    log: Annotated[Path, tyro.conf.Positional]
    """Log in the tab-separated form `idx label predict radius correct time`."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Run folder to make. Default: runs/ and the name of the log."""
    sigma: float | None = None
    """Standard deviation of the noise. Default: the one in the log's name, as in method_sigma0.50.tsv."""
    n: int | None = None
    """Draws for each image."""
    alpha: float | None = None
    """Probability that a certificate is wrong, for each image."""
    data: str = ""
    """Data set that the images are from."""
    source: str = ""
    """Where the log is from: a paper, a repository, a commit."""

    def __post_init__(self) -> None:
        if self.sigma is not None:
            check_sigma(self.sigma)
        if self.n is not None and self.n < 1:
            raise InputError(f"n must be at least 1, not {self.n}")
        if self.alpha is not None and not 0 < self.alpha < 1:
            raise InputError(f"alpha must lie in (0, 1), not {self.alpha}")

    def run(self) -> None:
        """Check the log and copy it."""
        check_sound(self.log)
        try:
            text = self.log.read_bytes()  # once: it may be a pipe
        except OSError:
            certificates.from_tsv(self.log)  # says what is wrong with it
            raise
        log = certificates.from_tsv(self.log, text)
        question = {
            "log": {"name": self.log.name, "sha256": hashlib.sha256(text).hexdigest()},
            "sigma": named_sigma(self.log) if self.sigma is None else self.sigma,
            **{name: getattr(self, name) for name in ("n", "alpha", "data", "source")},
        }
        folder = self.out or Path("runs") / log_name(self.log)
        config = configuration(question, self)
        with RunFolder(folder, config, *certificates.FILES):
            write_whole(folder / certificates.LOG, text)
        print(f"{len(log):,} images written to {folder}; {show_with(folder)}")


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write the certificates of a finished run in the field's form, for other people's scripts.

    Tab-separated `idx label predict radius correct time`, as Cohen et al.'s code writes and reads it. Radii are rounded
    down to three decimals; an image that abstains has predict -1 and radius 0.

    Example: ebsc export runs/ebsc -o ebsc_sigma0.50.tsv
    """

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Finished run folder of `ebsc certify`, or an imported one."""
    images: str = "::"
    """Which of its images, as start:stop:step."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Write here instead of to the terminal."""

    def run(self) -> None:
        """Print or write the log."""
        question = read_run(self.run_folder)["question"]
        if "log" in question:
            put(self._copied(), self.out)
            return
        if not certification(self.run_folder)["question"]["lattice"]:
            raise InputError(
                f"{self.run_folder} was made with --no-lattice: its certificates are not sound in floating point, and"
                " the field's form has no place to say so"
            )
        rows, seconds = certificates.read(self.run_folder), certificates.seconds(self.run_folder)
        kept = parse_images(self.images, len(rows))
        put(certificates.to_tsv(rows[kept], seconds[kept]), self.out)

    def _copied(self) -> str:
        """An imported log as it came."""
        path = self.run_folder / certificates.LOG
        try:
            text = path.read_bytes().decode()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path} cannot be read: {one_line(error)}") from error
        if self.images == "::":
            return text
        certificates.from_tsv(path)  # says what is wrong with it
        head, *lines = (line for line in text.splitlines(keepends=True) if line.strip())
        return head + "".join(lines[row] for row in parse_images(self.images, len(lines)))


if __name__ == "__main__":
    from jobs.cli import start

    start({"import": Import, "export": Export})
