"""The same GPT-2 by the calls for whole models: `initialize_` and `materialize`."""

from __future__ import annotations

from typing import Any

import models
import report
import torch
from timing import Contender, Race

import fastinit

FLAT = "normal_ on as many bytes"


class WholePart(models.ModelPart):
    """What `ModelPart` measures, and beside it the calls that initialise a model as a whole."""

    def __init__(self, choice: models.Choice) -> None:
        super().__init__(choice)
        self.flat: torch.Tensor | None = None
        race = self.initialisation
        extra = {
            "initialize_": Contender("again(side)", again=self._reinitialise, side="initialize_"),
            FLAT: Contender("fill()", fill=self._fill_flat),
        }
        self.initialisation = Race(
            {**race.contenders, **extra}, (*race.order, "initialize_", FLAT, "initialize_", FLAT)
        )
        self.start_ups["materialize"] = models.StartUps(
            Contender("build(side)", build=self._build, side="materialize")
        )

    def _build(self, side: str) -> None:
        if side == "materialize":
            self.model = fastinit.materialize(lambda: models.build(self.choice.config))
        else:
            super()._build(side)

    def _reinitialise(self, side: str) -> None:
        if side == "initialize_":
            fastinit.initialize_(self.model)
        else:
            super()._reinitialise(side)

    def _fill_flat(self) -> None:
        assert self.flat is not None
        fastinit.normal_(self.flat, std=0.02)

    def run(self, deadline: float, rounds: int = 3) -> None:
        self.flat = torch.empty(self.choice.parameters).fill_(0)
        super().run(deadline, rounds)
        self.flat = None
        for _ in range(rounds):  # a few seconds each
            report.progress(f"{self.choice.name}: materialize")
            self.start_up("materialize")
        self.model = None
        models.return_free_memory()

    def tables(self) -> list[report.Table]:
        race, start_ups = self.initialisation, self.start_ups
        native, ours, flat = (race[name].median for name in ("native", "initialize_", FLAT))
        built, materialized = (start_ups[s].contender.median for s in ("native", "materialize"))
        rows = [
            ["initialisation: initialize_", native, ours, native / ours, ours / flat],
            ["start-up: materialize", built, materialized, built / materialized, None],
        ]
        notes = [
            "initialize_: every weight drawn once, by the model's own rules, keyed by its name, in "
            "one launch;",
            f"  native draws {self.choice.draws / self.choice.parameters:.1f} times as many. of "
            "flat: over one fastinit.normal_ on a flat tensor of as many bytes.",
            "start-up: as above; materialize builds the model without memory, then fills what it "
            "allocates once, in huge pages where the kernel has them at hand.",
        ]
        header = ["row", "native s", "fastinit s", "native/fastinit", "of flat"]
        cells = [
            [str(row[0]), *("" if x is None else report.figures(x) for x in row[1:])]
            for row in rows
        ]
        first, *others = super().tables()
        title = f"{self.choice.name} as a whole"
        return [first, report.Table(title, header, cells, notes), *others]

    def as_dict(self) -> dict[str, Any]:
        race = self.initialisation
        return super().as_dict() | {
            "initialize_": {
                "ratio": race.ratio("native", "initialize_"),
                "of_flat": race.ratio("initialize_", FLAT),
            }
        }
