"""``ebsc demo``: the whole story on handwritten digits, in a few minutes on a laptop."""

from dataclasses import dataclass
from pathlib import Path

from ebsc import data, model
from ebsc.training import Schedule
from jobs.certify import Certify
from jobs.entries import side_by_side
from jobs.options import parse_radii
from jobs.plots import curves, denoised
from jobs.tables import render
from jobs.train import Train

__all__ = ["Demo"]

_RADII = "0:0.75:0.125"

_MEANING = """
How to read it. "r=0.25" is the share of test images that are classified rightly AND provably keep their class under
every change of the image of L2 length 0.25 or less (a pixel goes from 0 to 1): a guarantee, not the outcome of some
attack. Each certificate holds with probability 1 - alpha over the draws of noise. "plain" votes on noisy images (Cohen
et al. 2019); "ebsc" votes with the same linear classifier on xhat(y) = y - sigma^2 grad phi(y), the least-squares
estimate of the clean image under the learned energy phi. What the second row adds, the learned density adds: the
classifier is the same."""


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Train an EBSC on scikit-learn's digits, certify the test split on Ray, and show the table.

    Energy and linear classifier, certificates of plain smoothing and of the EBSC on 2 Ray actors, table, curve and
    pictures. Needs no data and no network; takes a few minutes on 2 cores. Started again, it goes on where it stopped.
    """

    out: Path = Path("runs/demo")
    """Folder for everything that it makes."""
    sigma: float = 0.25
    """Standard deviation of the noise."""
    n: int = 10_000
    """Draws for each image, at most."""
    workers: int = 2
    """Ray actors; 0: without Ray."""
    steps: int = 2000
    """Training steps of the energy."""

    def run(self) -> None:
        """Run the demo."""
        folder = self.out / "model"
        certifications = [  # made before anything is trained, as they say what is wrong with their options
            Certify(
                model=folder,
                run_folder=self.out / name,
                plain=name == "plain",
                radii=_RADII,
                n=self.n,
                workers=self.workers,
            )
            for name in ("plain", "ebsc")
        ]
        print(
            f"1. Learn the energy of digits under noise of sigma {self.sigma:g}, and a linear classifier.", flush=True
        )
        energy, head = Schedule(steps=self.steps), Schedule(steps=3000, learning_rate=1e-3, clip=1.0)
        Train(sigma=self.sigma, out=folder, energy=energy, head=head).run()
        print("\n2. Certify the test split: plain smoothing, then the EBSC.", flush=True)
        for certification in certifications:
            certification.run()
        net, _ = model.load(folder)
        entries = side_by_side([certification.folder for certification in certifications])
        curves(entries, self.out / "curve.png")
        denoised(net, data.load("digits", "test"), self.out / "denoised.png")
        table = render(entries, parse_radii(_RADII))
        (self.out / "table.txt").write_text(table)
        print(f"\n3. The table ({self.out / 'table.txt'}).\n\n{table}{_MEANING}\n")
        print(f"Certified accuracy against radius: {self.out / 'curve.png'}")
        print(f"Clean, noisy and estimated images: {self.out / 'denoised.png'}")


if __name__ == "__main__":
    from jobs.cli import start

    start(Demo)
