"""``ebsc reproduce``: a story on a data set, from data to tables and figures."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import tyro

from cluster.folder import RunFolder
from ebsc import data
from ebsc.device import pick
from ebsc.errors import InputError
from ebsc.files import write_whole
from jobs import paper, results
from jobs.entries import Entry, common_images, read_entry
from jobs.launch import Cluster, OnStop, Slurm, dispatch
from jobs.options import DataRoot, command_line, parse_images
from jobs.provenance import configuration
from jobs.story import Setting, Step, carry_out, told

__all__ = ["STORIES", "Reproduce"]

STORIES: dict[str, Mapping[str, Mapping[str, paper.Budget | results.Programme]]] = {
    "paper": paper.PLANS,
    "results": results.PLANS,
}
"""Stories by name, data set and budget."""


@dataclass(frozen=True, kw_only=True)
class Reproduce:
    """Tell the story of Saremi & Srivastava (2020) on a data set, from data to tables and figures.

    Plug-in EBSC: energies at several sigmas, each with a linear classifier; plain smoothing of the same. Learned EBSC
    at several epsilons; the same classifier without a denoiser, under noise and under attack. The envelope over sigma,
    the empirical curve beside the certified one, walk-jump, the theory of the two-class linear case, the geometry.
    Every step is an `ebsc` command, printed before it runs; story.md puts all together. Interrupted, it goes on.

    With --story results: the programme behind the headline rows instead. Recipes at sigmas 0.15 to 1, with LeNet and a
    stronger network, each beside its own baseline without a denoiser, with all seeds; ablations; verified runs; model
    cards.

    The paper's architectures, schedules and numbers of draws are not known to us (only its abstract is at hand): those
    here are ours, or those of published logs where there are such.

    Example: ebsc reproduce mnist

    Example: ebsc reproduce mnist --story results --budget full --workers 0
    """

    data: Annotated[Literal["mnist", "digits"], tyro.conf.Positional]
    """Data set."""
    story: Literal["paper", "results"] = "paper"
    """paper: what the paper does, from energies to geometry; results: the headline rows and what they owe to what."""
    budget: Literal["minutes", "small", "full"] = "minutes"
    """minutes: on two cores, to see it all; its rows say little about what is possible. small: results only, days on
    two cores. full: with the settings of the published logs, for a GPU."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder for everything that it makes. Default: reproduce/DATA-BUDGET, or
    reproduce/DATA-results-BUDGET."""
    data_root: DataRoot = None
    peers: tuple[Path, ...] = ()
    """Published logs in the field's tab-separated form, to be put beside the rows."""
    workers: int | None = None
    """Ray actors of each certification; 0: without Ray. Default: as many as there is room for."""
    commands: bool = False
    """Only print the commands."""
    cluster: Cluster = "here"
    """here: in this process; slurm: as one SLURM job; local, debug: through submitit on this machine."""
    slurm: Annotated[Slurm, tyro.conf.OmitArgPrefixes] = field(default_factory=Slurm)
    """What to ask SLURM for."""

    tasks: ClassVar[int] = 1  # processes on each node of a SLURM job

    def __post_init__(self) -> None:
        if self.cluster == "slurm":
            self.slurm.one_process("a story")
        for log in self.peers:
            if not log.is_file():
                raise InputError(f"{log}: no such log")
            read_entry(log)
        plans = STORIES[self.story].get(self.data, {})
        if self.budget not in plans:
            raise InputError(f"the story {self.story} of {self.data} has no budget {self.budget}: {', '.join(plans)}")

    def run(self) -> None:
        """Run it here, or hand it to a cluster."""
        if self.commands:
            for step in self.steps():
                print(f"# {step.title}\n{command_line(step.command)}")
            return
        dispatch([self], self.cluster, self.slurm, self.folder)

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        return self.out or Path("reproduce") / "-".join(
            [self.data, *["results"] * (self.story == "results"), self.budget]
        )

    def here(self, on_stop: OnStop) -> None:
        """Carry out all steps that are not done yet, then write the story."""
        pick(self.slurm.device("auto", self.cluster))  # steps take what there is
        self._check_peers()
        question: dict[str, Any] = {"data": self.data, "budget": self.budget, "plan": asdict(self._plan)}
        if self.story != "paper":
            question["story"] = self.story
        config = configuration(question, self)
        with RunFolder(self.folder, config, "story.md"):
            steps = list(self.steps())
            carry_out(steps)
            write_whole(self.folder / "story.md", (self._opening() + told(steps, self.folder)).encode())
        print(f"\nThe story, with its tables and figures: {self.folder / 'story.md'}")

    def _check_peers(self) -> None:
        """Say now, not after the trainings, that published logs are about other images."""
        if not self.peers:
            return
        whole = data.load(self.data, "test", self.data_root)
        index = parse_images(self._plan.images, len(whole.labels))
        nothing = np.zeros(len(index))
        ours = Entry(name=whole.name, index=index, radius=nothing, abstained=nothing == 0, label=whole.labels[index])
        common_images([ours, *map(read_entry, self.peers)])

    @property
    def _plan(self) -> paper.Budget | results.Programme:
        return STORIES[self.story][self.data][self.budget]

    def steps(self) -> Iterator[Step]:
        """All that the story does, in order."""
        plan = self._plan
        setting = Setting(
            folder=self.folder,
            data=self.data,
            data_root=self.data_root,
            peers=self.peers,
            workers=self.workers,
            certification=plan.certification,
            radii=plan.radii,
        )
        return plan.story(setting)

    def _opening(self) -> str:
        small = " It is a small budget: these rows say little about what is possible." * (self.budget != "full")
        unknown = " The settings of the paper are not known to us: those here are in the commands below."
        return (
            f"# {self.data}: empirical Bayes smoothed classifiers, from data to tables\n\n"
            f"Made by `{command_line(self)}`.{small} Certified accuracies are guarantees for the images that they"
            " name; curves under attack, and all that geometry predicts, are estimates."
            f"{unknown * (self.story == 'paper')}\n\n"
        )


if __name__ == "__main__":
    from jobs.cli import start

    start(Reproduce)
