"""The choice among configurations that share their settings, and its reasons in words."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from bench.report import Record
from bench.report.cells import where
from bench.report.configurations import (
    Configuration,
    baseline_of,
    pareto,
    rates_compared,
)
from bench.report.contrast import MARGIN, Verdict, absent, judge_all
from bench.report.figures import QUALITY, SPEED, Figure, Harm, harm, quality_of, speed_of
from bench.report.notes import FEW
from bench.report.page import ratio_text
from bench.report.sides import Pair
from bench.report.speedups import is_power_of_two
from bench.trial import rate_text

FRONT, SEED, CHOSEN = "front", "seed's setup", "recommended"


@dataclass(frozen=True)
class Choice:
    """The configuration to use, of those that share their settings.

    Attributes:
        configuration: Which it is.
        sentence: Why, in words.
    """

    configuration: Configuration
    sentence: str


@dataclass(frozen=True)
class Budget:
    """What a configuration has to fit.

    Attributes:
        gib: What was asked for.
        measured_gib: What was enforced while it was measured.
    """

    gib: float
    measured_gib: float

    def holds(self, one: Configuration) -> bool | None:
        """Whether it fits; `None` where nothing tells.

        What ended well has fitted what was enforced. A smaller budget takes figures.
        """
        if self.gib >= self.measured_gib:
            return True
        return None if one.taken_gib is None else one.taken_gib <= self.gib

    def __str__(self) -> str:
        return f"{self.gib:.3g} GiB"


class Candidates:
    """Configurations that share their settings, and which of them to use.

    Attributes:
        seed: The baseline; `None` where there is none within the budget.
        rates: Images/s that may be compared, of what fits and ended well.
        choice: What to use, if anything.
        lines: Of the page's DataFrame.
    """

    def __init__(
        self, words: str, found: Sequence[Configuration], budget: Budget, margin: float
    ) -> None:
        self.words, self.budget, self.margin = words, budget, margin
        self.all = found
        self.sound = [one for one in found if one.is_sound and budget.holds(one)]
        self.seed = baseline_of([one for one in found if budget.holds(one)])
        self.speed = self._judged(SPEED)
        self.quality = self._judged(QUALITY)
        self.rates = self._rates()
        self.harms = {
            one: self._harm(one, verdict) if verdict else None
            for one, verdict in self.quality.items()
        }
        self.choice = self._choose()
        self.lines = self._lines()

    @property
    def nothing(self) -> str:
        """Why there is no choice."""
        text = f"Nothing can be recommended {where(self.words)}: "
        if self.sound:
            return f"{text}nothing that ended well can be compared round by round."
        return f"{text}nothing that fits {self.budget} ended well, in all rounds, unflagged."

    @property
    def notes(self) -> list[str]:
        """What could be compared in part only, or not at all."""
        found = []
        if self.unreadable:
            names = ", ".join(self.unreadable)
            found.append(f"Left out, for their memory is not readable in all rounds: {names}.")
        for one, verdict in self.quality.items():
            if self.seed and verdict and one.seeds != self.seed.seeds and self.seed.final_mse:
                change = 100 * (one.final_mse / self.seed.final_mse - 1)
                found.append(
                    f"{one.label} shares {verdict.judgement.ratio.rounds} of its {len(one.seeds)} "
                    f"seeds with {self.seed.label}, which has {len(self.seed.seeds)}: the means of "
                    f"MSE over all seeds of each differ by {change:+.1f} %."
                )
        return found

    @property
    def unreadable(self) -> list[str]:
        """What may fit or not, by their labels."""
        return [one.label for one in self.all if one.is_sound and self.budget.holds(one) is None]

    def _rates(self) -> dict[Configuration, float]:
        """Images/s that may be compared, by the ratios that are shown where there are any."""
        if self.seed is None:
            return rates_compared(self.sound)
        ratios = {
            one: verdict.judgement.ratio.value for one, verdict in self.speed.items() if verdict
        }
        return {one: ratio * self.seed.images_per_s for one, ratio in ratios.items()} | {
            self.seed: self.seed.images_per_s
        }

    def _harm(self, one: Configuration, verdict: Verdict) -> Harm:
        """What it costs in quality, over the seeds that both have.

        Where these are not all, the means of all have to agree before anything is shown.
        """
        found = harm(QUALITY, verdict, self.margin)
        if self.seed is None or one.seeds == self.seed.seeds or not self.seed.final_mse:
            return found
        by_means = one.final_mse / self.seed.final_mse - 1
        if found.within is False or by_means < self.margin:
            return found
        return Harm(max(found.share, by_means), None, within=None)

    def _judged(self, figure: Figure) -> dict[Configuration, Verdict | None]:
        """The verdict on every configuration against the seed's setup."""
        contrast = speed_of if figure is SPEED else quality_of
        margin = MARGIN if figure is SPEED else self.margin
        contrasts = [
            contrast(Pair(self.seed.rows, one.rows)) if self.seed and one is not self.seed else None
            for one in self.sound
        ]
        verdicts = judge_all(contrasts, margin, figure.words, figure.unit)
        return dict(zip(self.sound, verdicts, strict=True))

    def _choose(self) -> Choice | None:
        ordered = sorted(self.rates, key=lambda one: -self.rates[one])
        possible = [one for one in ordered if one is self.seed or self._may_cost_nothing(one)]
        shown = [one for one in ordered if self._costs_nothing(one)]
        pool = [one for one in shown if self._is_faster(one)] or possible
        # Whatever the estimates say, nothing is named that is shown to be slower than another.
        unbeaten = (
            one
            for one in pool
            if not any(self._beats(other, one) for other in pool if other is not one)
        )
        best = next(unbeaten, None)
        if best is None or (self.seed is None and len(self.rates) == 1 < len(self.sound)):
            return None
        return Choice(best, self._sentence(best, possible))

    def _costs_nothing(self, one: Configuration) -> bool:
        """Whether its MSE is shown to be worse by no more than the margin."""
        found = self.harms[one]
        return found is not None and found.within is True and one.baseline is None

    def _may_cost_nothing(self, one: Configuration) -> bool:
        """Whether it may be so, by the estimate; where there is no seed's setup, anything may."""
        found = self.harms[one]
        if found is None:
            return self.seed is None
        return found.within is not False and found.share < self.margin

    def _is_faster(self, one: Configuration) -> bool:
        return self.seed is None or self.rates[one] > self.rates[self.seed]

    def _sentence(self, best: Configuration, possible: Sequence[Configuration]) -> str:
        text = f"{f'At {self.words}: use' if self.words else 'Use'} {best.label}: "
        taken = "memory not readable"
        if best.taken_gib is not None:
            taken = f"{best.taken_gib:.2f} of {self.budget}"
        mse = f"final MSE {best.final_mse:.1f}"
        if best is self.seed:
            others = "nothing else that fits"
            if self._apart():
                others = "of what can be compared with it, nothing else"
            text += f"{rate_text(self.rates[best])} images/s in {taken}, {mse}. It is "
            text += f"{self._setup()}; {others} is shown to be faster without costing quality."
            if best.baseline:
                text += f" But it is no better than {best.baseline}: nothing is told of quality."
        else:
            text += f"{self._speed_words(best)}, {taken}, {mse}, {self._quality_words(best)}."
        rivals = [one for one in possible if one is not best and not self._beats(best, one)]
        if rivals:
            names = ", ".join(one.label for one in rivals[:FEW])
            more = f" and {len(rivals) - FEW} more" if len(rivals) > FEW else ""
            text += f" Not shown to be faster than {names}{more}."
        better = [
            one
            for one, rate in self.rates.items()
            if rate < self.rates[best]
            and (one is self.seed or self.harms[one] is not None or self.seed is None)
            and one.final_mse < (1 - self.margin) * best.final_mse
        ]
        if better:
            next_best = max(better, key=lambda one: self.rates[one])
            text += (
                f" A lower MSE by the estimate, and fewer images/s: {next_best.label}, "
                f"{next_best.final_mse:.1f} at {rate_text(self.rates[next_best])} images/s."
            )
        if self.seed and (apart := self._apart()):
            text += (
                f" Not compared with {self.seed.label}, for no seed in common: "
                f"{', '.join(one.label for one in apart)}."
            )
        return text

    def _apart(self) -> list[Configuration]:
        """What shares no seed with the seed's setup."""
        return [
            one
            for one in self.sound
            if self.seed and one is not self.seed and self.harms[one] is None
        ]

    def _speed_words(self, best: Configuration) -> str:
        verdict = self.speed[best]
        if self.seed is None or verdict is None:
            return (
                f"{rate_text(self.rates[best])} images/s (what it gains is not shown: "
                f"{self._lacking()})"
            )
        setup = f"the images/s of {self.seed.label}, {self._setup()}"
        why = verdict.judgement.why
        missing = f" (not shown: {why})" if why else ""
        return f"{ratio_text(verdict.columns('ratio'), 'ratio')} {setup}{missing}"

    def _lacking(self) -> str:
        """Why there is no seed's setup to compare with."""
        name = self.all[0].cells[0]["plain_variant"]
        plain = [one for one in self.all if one.is_plain and is_power_of_two(one.batch_size)]
        if not plain:
            why = "was not measured"
        elif any(one.label in self.unreadable for one in plain):
            why = f"may fit {self.budget} or not: its memory is not readable"
        elif any(map(self._is_too_large, plain)):
            why = f"does not fit {self.budget}"
        else:
            why = "did not end well, in all rounds, unflagged"
        return f"{name} at a power-of-two batch {why}"

    def _is_too_large(self, one: Configuration) -> bool:
        return one.ran_out_of_memory or (one.is_sound and self.budget.holds(one) is False)

    def _quality_words(self, best: Configuration) -> str:
        limit = f"worse by more than {100 * self.margin:g} %"
        found, verdict = self.harms[best], self.quality[best]
        if best.baseline:
            return f"whether it costs quality not shown: MSE is no better than {best.baseline}"
        if found is None or verdict is None:
            return f"whether it costs quality not shown: {self._lacking()}"
        by_estimate = f"{100 * abs(found.share):.1f} % {'worse' if found.share > 0 else 'better'}"
        if not found.share:
            by_estimate = "equal"
        seeds = verdict.judgement.ratio.rounds
        count = f"{seeds} seed{'s' if seeds > 1 else ''}"
        if self.seed and best.seeds != self.seed.seeds:
            count += " that both have"
        if found.within:
            return f"MSE not {limit} (over {count}, {by_estimate} by the estimate)"
        why = verdict.judgement.why
        if found.most is not None:
            why = f"at most {100 * found.most:.1f} % worse"
        missing = ", ".join(filter(None, (f"{by_estimate} by the estimate", why)))
        return f"not shown that MSE is not {limit} ({missing})"

    def _setup(self) -> str:
        """What the seed's setup is, by what is known of its batch size."""
        double = 2 * self.seed.batch_size if self.seed else 0
        beyond = [
            one
            for one in self.all
            if one.is_plain and one.batch_size == double and self._is_too_large(one)
        ]
        edge = "that fits" if beyond else "measured"
        return f"the seed's setup at the largest power of two {edge}"

    def _beats(self, best: Configuration, other: Configuration) -> bool:
        """Whether it is shown to be faster.

        Than, or against, the seed's setup: as it was judged. Else with as many comparisons as there
        are pairs, for which of them would be the fastest was not known before.
        """
        words = {best: "faster", other: "slower"}
        for one, another in ((best, other), (other, best)):
            verdict = self.speed[one] if another is self.seed else None
            if verdict is not None:
                return verdict.word == words[one]
        contrast = speed_of(Pair(other.rows, best.rows))
        pairs = len(self.sound) * (len(self.sound) - 1) // 2
        (verdict,) = judge_all([contrast], comparisons=pairs)
        return verdict is not None and verdict.word == "faster"

    def _lines(self) -> list[Record]:
        """The Pareto front, and what is spoken of."""
        told = [self._line(one) for one in self.sound]
        front = pareto(
            [line for one, line in zip(self.sound, told, strict=True) if one in self.rates]
        )
        chosen = self.choice.configuration if self.choice else None
        found = []
        for one, line in zip(self.sound, told, strict=True):
            line["on_front"] = any(line is other for other in front)
            line["is_seed"], line["recommended"] = one is self.seed, one is chosen
            roles = {CHOSEN: one is chosen, SEED: one is self.seed, FRONT: line["on_front"]}
            line["role"] = ", ".join(role for role, has in roles.items() if has)
            if line["role"]:
                found.append(line)
        return sorted(found, key=lambda line: -float(line["images_per_s"]))

    def _line(self, one: Configuration) -> Record:
        first = one.cells[0]
        found: Harm | None = self.harms[one]
        columns: Record = {}
        for figure, verdict in ((SPEED, self.speed[one]), (QUALITY, self.quality[one])):
            name = figure.name
            own = {name: 1.0} if one is self.seed else {}
            columns |= verdict.columns(name) if verdict else absent(name) | own
        return {
            **json.loads(first["settings"]),
            "variant": one.variant,
            "batch_size": one.batch_size,
            "seeds": len(one.cells),
            "images_per_s": self.rates.get(one, one.images_per_s),
            "final_mse": one.final_mse,
            "taken_gib": one.taken_gib,
            "budget_gib": self.budget.gib,
            "seed_variant": self.seed.variant if self.seed else None,
            "seed_batch_size": self.seed.batch_size if self.seed else None,
            **columns,
            "costs_no_quality": found.within if found else None,
            "settings": first["settings"],
            "command": first["command"],
        }
