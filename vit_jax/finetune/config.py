"""The config of a fine-tuning run, from weights and images alone."""

import dataclasses
import logging
import re
from typing import Any

from flax import traverse_util
from ml_collections import ConfigDict

from vit_jax.config import default, evaluation
from vit_jax.config_files import set_option
from vit_jax.errors import InputError, unknown
from vit_jax.finetune.begun import begun_in
from vit_jax.finetune.choices import Choice, choose, doubt
from vit_jax.finetune.facts import Images, gather
from vit_jax.finetune.methods import METHODS, apply_method

log = logging.getLogger(__name__)

FORM = "WEIGHTS,DATA[,NAME=VALUE...]"
_OPTION = re.compile(r"([a-z_]+(?:\.[a-z_]+)*)=(.*)")
# A comma outside of parentheses, which are not nested.
_COMMA = re.compile(r",(?![^(]*\))")
TOLD = ("data.", "evals.test.")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a user asks for.

    Attributes:
      weights: text of `init_from`.
      source: text of `data.source`.
      epochs: length of the run; None: chosen.
      image_size: side of images in pixels; None: that of the weights.
      share, rate, hold_out: see `choices.choose`.
      method: name in `methods.METHODS`.
      resume: workdir of the run that goes on; weights are not read again. "": a new run.
      told: further options that decide what is read: of `data` and of `evals.test`.
    """

    weights: str
    source: str
    epochs: float | None = None
    image_size: int | None = None
    share: float | None = None
    rate: float | None = None
    hold_out: bool = True
    method: str = "full"
    resume: str = ""
    told: dict[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "Wanted":
        """Reads FORM, such as "B_16.npz,folder:photos,epochs=5,data.nested=top".

        Raises:
          InputError: it has another form, or an unknown name.
        """
        *parts, last = _COMMA.split(text)
        named: dict[str, str] = {}
        while len(parts) > 1 and (match := _OPTION.fullmatch(last)):
            named.setdefault(match[1], match[2])
            last = parts.pop()
        weights, *rest = [*parts, last]
        source = ",".join(rest)
        if not weights or not source:
            raise InputError(f"configs/images.py:{text}: write {FORM}")
        numbers: dict[str, Any] = {
            name: _number(named, name, kind)
            for name, kind in dict(epochs=float, image_size=int, share=float, rate=float).items()
        }
        numbers["hold_out"] = _switch(named, "hold_out")
        numbers["resume"] = named.get("resume", "")
        numbers["method"] = named.get("method", "full")
        if numbers["method"] not in METHODS:
            raise unknown("method of fine-tuning", numbers["method"], METHODS)
        options = {name: value for name, value in named.items() if name.startswith(TOLD)}
        for name in named:
            if name not in options and name not in numbers:
                raise unknown("name in the argument of configs/images.py;", name, [*numbers])
        return cls(weights, source, told=options, **numbers)

    def argument(self) -> str:
        """The text that `parse` reads."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)[2:-1]}
        own["hold_out"] = None if self.hold_out else False
        own["method"] = None if self.method == "full" else self.method
        own["resume"] = self.resume or None
        named = own | self.told
        ends = [f",{name}={_short(value)}" for name, value in named.items() if value is not None]
        return f"{self.weights},{self.source}{''.join(ends)}"


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _number(named: dict[str, str], name: str, kind: type) -> Any:
    if name not in named:
        return None
    try:
        value = kind(named[name])
    except ValueError:
        value = 0
    if not 0 < value < 1e6:
        raise InputError(f"{name}={named[name]}: give a number above 0")
    return value


def _switch(named: dict[str, str], name: str) -> bool:
    text = named.get(name, "True")
    if text not in ("True", "False"):
        raise InputError(f"{name}={text}: give True or False")
    return text == "True"


def images_config(text: str) -> ConfigDict:
    """The config for FORM; what it chooses is logged, a line each.

    Raises:
      InputError: the text has another form, or weights or images cannot be read.
    """
    return config_for(Wanted.parse(text))


def config_for(wanted: Wanted) -> ConfigDict:
    """The config for what a user wants; see `images_config`."""
    config = default()
    config.init_from = wanted.weights
    config.data.source = wanted.source
    config.model.image_size = wanted.image_size
    with config.unlocked():
        config.evals.test = evaluation()
    tell(config, wanted)
    begun = begun_in(wanted.resume) if wanted.resume else None
    facts = gather(config, wanted.told, begun)
    _check_classes(facts.images)
    if wanted.hold_out and (words := doubt(facts.images)):
        log.warning("%s", words)
    chosen = choose(
        facts,
        epochs=wanted.epochs,
        share=wanted.share or 1.0,
        rate=wanted.rate or 1.0,
        hold_out=wanted.hold_out,
        method=wanted.method,
    )
    if not facts.images.test and not wanted.hold_out:
        with config.unlocked():
            del config.evals.test
        chosen = [choice for choice in chosen if not choice.option.startswith("evals.test.")]
    own = [choice for choice in chosen if choice.option not in wanted.told]
    config.optimizer.warmup.steps = None  # it is 0 by default
    for choice in own:
        set_option(config, choice.option, str(choice.value))
    before = _values(config)
    apply_method(config, wanted.method)
    after = _values(config)
    changed = {name: value for name, value in after.items() if value != before[name]}
    for choice in own:
        if choice.option not in changed:
            log.info("%s", choice.line())
    for name, value in changed.items():
        log.info("%s", Choice(name, value, f"the method {wanted.method}").line())
    return config


def _check_classes(images: Images) -> None:
    if images.classes < 2 and not images.multi_label:
        raise InputError(
            f"{images.source} has {images.classes} class{'es' if not images.classes else ''}; "
            "a classifier needs at least two: a folder for each"
        )


def _values(config: ConfigDict) -> dict[str, Any]:
    """Full name of an option -> its value."""
    flat = traverse_util.flatten_dict(config.to_dict(), sep=".")
    return {name: value for name, value in flat.items() if not name.startswith("evals.")}


def tell(config: ConfigDict, wanted: Wanted) -> None:
    """Sets the options that the user gave on a config.

    Raises:
      InputError: an unknown option, or a value of another type.
    """
    for name, text in wanted.told.items():
        set_option(config, name, text)
