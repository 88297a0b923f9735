"""What stories share: steps that are ``ebsc`` commands, each done once, and told in one page."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jobs.certify import Certify
from jobs.options import command_line
from jobs.tables import Table
from jobs.train import Train

__all__ = ["Setting", "Step", "carry_out", "told"]


@dataclass(frozen=True)
class Step:
    """One command, what it is for, the file that says that it is done, and what of it the story shows."""

    title: str
    command: Any
    done: Path | None = None
    table: Path | None = None
    figure: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where a story happens, and what its commands share.

    Attributes:
        folder: of all that it makes: ``models/``, ``runs/``, tables and figures.
        data, data_root: the data set.
        peers: published logs.
        workers: of certifications.
        certification: options of every certification.
        radii: columns of tables.
    """

    folder: Path
    data: str
    data_root: Path | None = None
    peers: tuple[Path, ...] = ()
    workers: int | None = None
    certification: dict[str, Any] = field(default_factory=dict)
    radii: str = "0:2:0.25"

    def model(self, name: str) -> Path:
        """Folder of a model."""
        return self.folder / "models" / name

    def run(self, name: str) -> Path:
        """Folder of a run."""
        return self.folder / "runs" / name

    def train(self, title: str, name: str, train: Train) -> Step:
        """Train a model of this name."""
        model = self.model(name)
        return Step(title, replace(train, data=self.data, data_root=self.data_root, out=model), model / "model.json")

    def certify(self, name: str, model: str, **options: Any) -> Step:
        """Certify a model, as a run of this name."""
        run = self.run(name)
        command = Certify(
            model=self.model(model),
            run_folder=run,
            data_root=self.data_root,
            radii=self.radii,
            workers=self.workers,
            **self.certification | options,
        )
        return Step(f"Certify {name}", command, run / "certificates.parquet")

    def table(self, title: str, name: str, runs: Sequence[str], peers: tuple[Path, ...] = (), **options: Any) -> Step:
        """Put runs of these names and logs side by side."""
        rows = *map(self.run, runs), *peers
        out, plot = self.folder / f"{name}.md", self.folder / f"{name}.png"
        command = Table(rows=rows, radii=self.radii, format="markdown", out=out, plot=plot, **options)
        return Step(title, command, table=out, figure=plot)


def carry_out(steps: Sequence[Step]) -> None:
    """Carry out, in order, all steps that are not done yet."""
    for number, step in enumerate(steps, 1):
        print(f"\n[{number}/{len(steps)}] {step.title}\n$ {command_line(step.command)}", flush=True)
        if step.done and step.done.exists():
            print("done before")
        else:
            step.command.run()


def told(steps: Sequence[Step], folder: Path) -> str:
    """All tables and figures, with the command that made each, in Markdown; paths are relative to the folder."""
    parts = []
    for step in steps:
        parts.append(f"## {step.title}\n\n```sh\n{command_line(step.command)}\n```\n")
        if step.table:
            parts.append(step.table.read_text())
        if step.figure:
            parts.append(f"![{step.title}]({step.figure.relative_to(folder)})\n")
    return "\n".join(parts)
